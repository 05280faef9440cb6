using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Devmem;

/// <summary>A generic netlink request as it is put together: header, then attributes, each on four bytes.</summary>
internal ref struct NetlinkMessage
{
    private readonly Span<byte> _buffer;
    private int _length;

    public NetlinkMessage(Span<byte> buffer, ushort family, byte command, byte version, uint sequence)
    {
        _buffer = buffer;
        _buffer.Clear();
        nlmsghdr header = new()
        {
            nlmsg_type = family,
            nlmsg_flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK,
            nlmsg_seq = sequence,
        };
        MemoryMarshal.Write(_buffer, header);
        MemoryMarshal.Write(_buffer[Unsafe.SizeOf<nlmsghdr>()..], new genlmsghdr { cmd = command, version = version });
        _length = Unsafe.SizeOf<nlmsghdr>() + Unsafe.SizeOf<genlmsghdr>();
    }

    /// <summary>What was put together, its length in its header.</summary>
    public readonly ReadOnlySpan<byte> Bytes
    {
        get
        {
            MemoryMarshal.Write(_buffer, (uint)_length); // nlmsg_len stands first
            return _buffer[.._length];
        }
    }

    public void Add(ushort type, uint value)
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        MemoryMarshal.Write(bytes, value);
        Add(type, bytes);
    }

    public void Add(ushort type, scoped ReadOnlySpan<byte> value)
    {
        int size = Unsafe.SizeOf<nlattr>() + value.Length;
        MemoryMarshal.Write(_buffer[_length..], new nlattr { nla_len = (ushort)size, nla_type = type });
        value.CopyTo(_buffer[(_length + Unsafe.SizeOf<nlattr>())..]);
        _length += (size + 3) & ~3;
    }

    /// <summary>Begins attributes within one; ends with <see cref="EndNested"/>.</summary>
    public int BeginNested(ushort type)
    {
        int start = _length;
        MemoryMarshal.Write(_buffer[start..], new nlattr { nla_type = (ushort)(type | netlink.NLA_F_NESTED) });
        _length += Unsafe.SizeOf<nlattr>();
        return start;
    }

    public readonly void EndNested(int start) => MemoryMarshal.Write(_buffer[start..], (ushort)(_length - start));

    /// <summary>The next attribute, or false: at the end, or where what follows is none.</summary>
    public static bool TryRead(ref ReadOnlySpan<byte> attributes, out ushort type, out ReadOnlySpan<byte> value)
    {
        type = 0;
        value = default;
        if (!MemoryMarshal.TryRead(attributes, out nlattr header)
            || header.nla_len < Unsafe.SizeOf<nlattr>()
            || header.nla_len > attributes.Length)
        {
            return false;
        }

        type = (ushort)(header.nla_type & ~netlink.NLA_F_NESTED);
        value = attributes[Unsafe.SizeOf<nlattr>()..header.nla_len];
        attributes = attributes[Math.Min((header.nla_len + 3) & ~3, attributes.Length)..];
        return true;
    }
}
