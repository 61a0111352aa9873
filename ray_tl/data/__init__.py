"""Which data?"""
