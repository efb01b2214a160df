"""What Shoal claims about its speed, measured next to its peers. Not part of the installed package."""
