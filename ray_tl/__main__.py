"""`python -m ray_tl`, the same as `ray-tl`."""

from ray_tl.cli import main

if __name__ == "__main__":
    main()
