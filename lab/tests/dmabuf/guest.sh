# vgem is the importer that puts fences on the others' buffers, and an exporter as well.
set -eu
modprobe vgem
[ -c /dev/udmabuf ] && [ -c /dev/dma_heap/system ]
"$LAB" program dmabuf
