# Our device, on the host and on its own kernel, beside the emulated machine.
exec "$LAB" program our-multicast
