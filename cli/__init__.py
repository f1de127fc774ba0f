"""The commands: each parses, calls one library function and prints. torch is imported only inside them."""
