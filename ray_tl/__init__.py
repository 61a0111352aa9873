"""Distributed search for transfer learning and domain adaptation."""
