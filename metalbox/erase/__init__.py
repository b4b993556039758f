"""Erasing: which method is right for a disk, and what may be certified afterwards. The doing is the agent's."""
