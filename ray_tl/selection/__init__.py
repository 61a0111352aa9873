"""Which trial wins?"""
