"""Is it good, without target labels?"""
