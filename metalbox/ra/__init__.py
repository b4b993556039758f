"""An empty router advertisement for machines in a boot: old iPXE else waits 15 s for a router that is not there."""
