"""How well images match texts: ranks in a gallery."""
