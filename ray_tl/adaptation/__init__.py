"""How is the gap between two domains closed?"""
