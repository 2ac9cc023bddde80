"""Images of what the network attends to and of what was read and cut."""
