"""Sample sets: folders of samples that are filled as they are made, and what is recorded of them."""
