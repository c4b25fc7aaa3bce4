"""Parts of the walk over every switch: the keys and what each is turned to, and the rules of placement."""
