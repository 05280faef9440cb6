namespace Wayleave.Linux.Interop;

// <linux/uio.h> of Linux 6.12
internal struct dmabuf_cmsg
{
    internal ulong frag_offset;
    internal uint frag_size;
    internal uint frag_token;
    internal uint dmabuf_id;
    internal uint flags;
}

internal struct dmabuf_token
{
    internal uint token_start;
    internal uint token_count;
}
