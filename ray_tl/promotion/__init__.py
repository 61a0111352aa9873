"""May it replace what serves?"""
