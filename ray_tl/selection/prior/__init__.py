"""Which classes does the target hold, and how many of each?"""
