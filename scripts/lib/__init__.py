"""Parts of the set-up and of the demo. Not part of the installed package."""
