"""Makes what machines run: the agent's kernel and initramfs, and the folder of boot files, from Debian's packages.

Needs apt-get, dpkg-deb and tar, and no root: everything happens in a private folder, nothing of the machine is changed.
Start reading at `agent.py`; what goes into the image is the tables of `contents.py`.
"""
