"""Which network, and what of it trains?"""
