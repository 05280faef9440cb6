using Wayleave.Core;

namespace Wayleave.Devices.Ethernet;

/// <summary>How a reader reads (<c>MSG_*</c>).</summary>
[Flags]
public enum ReceiveFlags
{
    None = 0,

    /// <summary>Leaves the bytes in the queue, but hands out tokens all the same (<c>MSG_PEEK</c>).</summary>
    Peek = 1,

    /// <summary>Takes pieces of device memory by token (<c>MSG_SOCK_DEVMEM</c>).</summary>
    Devmem = 2,
}

/// <summary>What one read returned.</summary>
/// <param name="Bytes">All of them.</param>
/// <param name="LinearBytes">Those that were copied to the caller's memory.</param>
/// <param name="Fragments">Pieces that were described.</param>
public readonly record struct ReceiveResult(int Bytes, int LinearBytes, int Fragments);

// The rules are those of tcp_recvmsg_dmabuf, tcp_recvmsg_locked and sock_devmem_dontneed (linux.md 7.4 and 7.5), with
// two differences. The kernel knows linear payload of a bound queue only as the head of a segment whose other bytes are
// in device memory; here a whole segment may be linear, and a reader without the flag may read it like any other. And
// tokens of a binding that was taken back fail, because only here can one be taken back.

/// <summary>
/// What one connection has received in order and its reader has not read, and the pieces that the reader holds
/// (<c>sk_receive_queue</c> and <c>sk_user_frags</c>). Port token held by the caller.
/// </summary>
public sealed class DevmemReceiveQueue
{
    private readonly TokenTable _tokens;
    private PayloadFragment[] _unread = new PayloadFragment[16]; // a ring
    private int _first;
    private int _count;
    private long _tokenBytes;
    private bool _isClosed;

    public DevmemReceiveQueue()
        : this(NicDefences.All)
    {
    }

    internal DevmemReceiveQueue(NicDefences defences) => _tokens = new TokenTable(defences.AgesTokens);

    /// <summary>Bytes that were appended and not read.</summary>
    public long UnreadBytes { get; private set; }

    /// <summary>Pieces that the reader holds.</summary>
    public int OutstandingTokens => _tokens.Count;

    /// <summary>
    /// Bytes that take up memory: those not read yet, and those of pieces that the reader holds.
    /// </summary>
    public long HeldBytes => UnreadBytes + _tokenBytes;

    /// <summary>Bytes of device memory that were handed out by token since the start.</summary>
    public long BytesByToken { get; private set; }

    /// <summary>
    /// Bytes that were copied to host memory for the reader since the start: for who wanted device memory, staging.
    /// </summary>
    public long BytesCopied { get; private set; }

    /// <summary>
    /// More bytes, next in order. Takes over the caller's reference, also when the queue is closed and drops them.
    /// </summary>
    public void Append(in PayloadFragment fragment)
    {
        if (_isClosed)
        {
            fragment.Release();
            return;
        }

        UnreadBytes += fragment.LengthBytes;
        if (_count > 0)
        {
            ref PayloadFragment last = ref _unread[(_first + _count - 1) & (_unread.Length - 1)];
            if (last.IsFollowedBy(fragment))
            {
                last = last with { LengthBytes = last.LengthBytes + fragment.LengthBytes };
                fragment.Release(); // one piece, one reference
                return;
            }
        }

        if (_count == _unread.Length)
        {
            Grow();
        }

        _unread[(_first + _count++) & (_unread.Length - 1)] = fragment;
    }

    /// <summary>
    /// Reads (<c>recvmsg</c>). One call returns bytes of bound queues or bytes of others, and stops where they meet.
    /// </summary>
    /// <param name="flags">With Devmem, device memory is described in <paramref name="fragments"/>.</param>
    /// <param name="lengthMax">Most bytes to read altogether.</param>
    /// <param name="linear">Where bytes that are not in device memory are copied.</param>
    /// <param name="fragments">Room for descriptions, each of one piece.</param>
    /// <param name="result">What came.</param>
    /// <returns>
    /// <see cref="Errno.EAGAIN"/> when there is nothing to read, and nothing else is wrong; <see cref="Errno.EFAULT"/>
    /// when the next bytes are in device memory and Devmem was not said: they stay; <see cref="Errno.ETOOSMALL"/> when
    /// there is no room for one description, or for a byte that has to be copied; <see cref="Errno.ENODEV"/> when the
    /// next bytes were taken back by the owner of their memory; <see cref="Errno.EMFILE"/> when the reader holds as
    /// many tokens as it may. Each only when nothing came before.
    /// </returns>
    public Errno Receive(
        ReceiveFlags flags,
        int lengthMax,
        Span<byte> linear,
        Span<DevmemFragment> fragments,
        out ReceiveResult result)
    {
        bool isDevmem = (flags & ReceiveFlags.Devmem) != 0;
        bool isPeek = (flags & ReceiveFlags.Peek) != 0;
        int copied = 0, described = 0, total = 0;
        bool? wasBound = null;
        Errno errno = _count == 0 ? Errno.EAGAIN : Errno.Success;
        for (int position = 0; position < _count && lengthMax > total;)
        {
            ref PayloadFragment next = ref _unread[(_first + position) & (_unread.Length - 1)];
            bool isBound = next.Pool.Kind != ChunkPoolKind.Host;
            if (isDevmem && wasBound is { } kind && kind != isBound)
            {
                break;
            }

            int length = Math.Min(next.LengthBytes, lengthMax - total);
            length = next.IsDevice ? length : Math.Min(length, linear.Length - copied);
            PayloadFragment part = next.Slice(0, length);
            bool needsDescription = isDevmem && isBound;
            errno = length == 0 || (needsDescription && described == fragments.Length) ? Errno.ETOOSMALL
                : !part.IsDevice ? Errno.Success
                : !isDevmem ? Errno.EFAULT
                : part.Pool.Binding!.IsRevoked ? Errno.ENODEV
                : Errno.Success;
            DevmemFragment description = new(DevmemFragmentKind.Linear, 0, (uint)length, 0, 0);
            if (errno == Errno.Success && part.IsDevice)
            {
                errno = TryDescribe(part, out description);
            }

            if (errno != Errno.Success)
            {
                break;
            }

            if (!part.IsDevice)
            {
                part.TryGetSpan(out ReadOnlySpan<byte> bytes);
                bytes.CopyTo(linear[copied..]);
                copied += length;
            }

            if (needsDescription)
            {
                fragments[described++] = description;
            }

            wasBound = isBound;
            total += length;
            if (isPeek)
            {
                position++;
                continue;
            }

            Consume(ref next, length);
        }

        result = new ReceiveResult(total, copied, described);
        if (total > 0)
        {
            BytesCopied += copied;
            BytesByToken += total - copied;
            return Errno.Success;
        }

        return errno;
    }

    /// <summary>
    /// Returns tokens (<c>SO_DEVMEM_DONTNEED</c>). Tokens that are not held here, others' among them, are skipped.
    /// After <see cref="TokenRange.TokensMax"/> tokens it stops.
    /// </summary>
    /// <param name="ranges">At most <see cref="TokenRange.RangesMax"/>.</param>
    /// <param name="freed">How many pieces were given back.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for too many ranges; <see cref="Errno.ENODEV"/> when a token was among them whose
    /// memory was taken back: it is gone, and is not counted as freed.
    /// </returns>
    public Errno DontNeed(ReadOnlySpan<TokenRange> ranges, out int freed)
    {
        freed = 0;
        if (ranges.Length > TokenRange.RangesMax)
        {
            return Errno.EINVAL;
        }

        Errno errno = Errno.Success;
        int looked = 0;
        foreach (ref readonly TokenRange range in ranges)
        {
            for (uint i = 0; i < range.Count; i++)
            {
                if (looked++ == TokenRange.TokensMax)
                {
                    return errno;
                }

                if (!_tokens.TryRemove(unchecked(range.Start + i), out PayloadFragment fragment))
                {
                    continue;
                }

                bool isRevoked = GiveBack(fragment);
                errno = isRevoked ? Errno.ENODEV : errno;
                freed += isRevoked ? 0 : 1;
            }
        }

        return errno;
    }

    /// <summary>As above, for an option value as a process passes it (<c>struct dmabuf_token[]</c>).</summary>
    /// <returns>
    /// Also <see cref="Errno.EINVAL"/> when the length is no multiple of <see cref="TokenRange.Size"/>.
    /// </returns>
    public Errno DontNeed(ReadOnlySpan<byte> value, out int freed)
    {
        freed = 0;
        if (value.Length % TokenRange.Size != 0 || value.Length > TokenRange.RangesMax * TokenRange.Size)
        {
            return Errno.EINVAL;
        }

        Span<TokenRange> ranges = stackalloc TokenRange[TokenRange.RangesMax];
        int count = value.Length / TokenRange.Size;
        for (int i = 0; i < count; i++)
        {
            ranges[i] = TokenRange.Read(value[(i * TokenRange.Size)..]);
        }

        return DontNeed(ranges[..count], out freed);
    }

    /// <summary>
    /// Whether bytes that the peer was told have arrived are in that binding's memory and nobody has read them: when
    /// the memory is taken back they are lost, and the connection with them.
    /// </summary>
    public bool HoldsUnreadOf(MemoryBinding binding)
    {
        for (int i = 0; i < _count; i++)
        {
            if (ReferenceEquals(_unread[(_first + i) & (_unread.Length - 1)].Pool.Binding, binding))
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>
    /// The connection is gone, or its reader is: gives back what was not read and every token. Idempotent.
    /// </summary>
    public void Close()
    {
        _isClosed = true;
        for (; _count > 0; _count--)
        {
            ref PayloadFragment next = ref _unread[_first];
            next.Release();
            next = default;
            _first = (_first + 1) & (_unread.Length - 1);
        }

        UnreadBytes = 0;
        int cursor = 0;
        while (_tokens.TryRemoveAny(ref cursor, out PayloadFragment fragment))
        {
            GiveBack(fragment);
        }
    }

    private bool GiveBack(in PayloadFragment fragment)
    {
        MemoryBinding binding = fragment.Pool.Binding!;
        bool isRevoked = binding.IsRevoked;
        binding.OutstandingTokens--;
        _tokenBytes -= fragment.LengthBytes;
        binding.TokensRevoked += isRevoked ? 1 : 0;
        fragment.Release();
        return isRevoked;
    }

    private Errno TryDescribe(in PayloadFragment part, out DevmemFragment description)
    {
        description = default;
        part.Retain();
        if (!_tokens.TryAdd(part, out uint token))
        {
            part.Release();
            return Errno.EMFILE;
        }

        MemoryBinding binding = part.Pool.Binding!;
        binding.OutstandingTokens++;
        _tokenBytes += part.LengthBytes;
        description = new DevmemFragment(
            DevmemFragmentKind.DmaBuf, part.BufferOffset, (uint)part.LengthBytes, token, binding.Id);
        return Errno.Success;
    }

    // The reference of a piece that is read whole is given up; the token has its own.
    private void Consume(ref PayloadFragment next, int lengthBytes)
    {
        UnreadBytes -= lengthBytes;
        if (lengthBytes < next.LengthBytes)
        {
            next = next.Slice(lengthBytes, next.LengthBytes - lengthBytes);
            return;
        }

        PayloadFragment read = next;
        next = default;
        _first = (_first + 1) & (_unread.Length - 1);
        _count--;
        read.Release();
    }

    private void Grow()
    {
        PayloadFragment[] grown = new PayloadFragment[2 * _unread.Length];
        for (int i = 0; i < _count; i++)
        {
            grown[i] = _unread[(_first + i) & (_unread.Length - 1)];
        }

        (_unread, _first) = (grown, 0);
    }
}
