"""Where does it run? The only code that imports Ray."""
