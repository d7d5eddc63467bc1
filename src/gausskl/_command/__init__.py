"""``python -m gausskl doctor``: what this machine has, what serves, and what to do about the rest.

Each library is asked in a process of its own, which may crash. Nothing else imports this folder.
"""
