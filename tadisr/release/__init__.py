"""What the authors published: their decoder's blocks, the layout of their pickles, and the import of one."""
