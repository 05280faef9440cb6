using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// Pages of a pool in a process (<c>p2pmem_alloc_mmap</c>). The driver can take them away: the mapping is zapped, and
/// the next touch faults. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class PeerUserMapping
{
    private const int BlockBytes = 64 * 1024; // what a zap waits for at most

    private readonly HostContext _host;
    private readonly PeerPool _pool;
    private readonly PeerAllocation _allocation;
    private readonly DmaPort _port;
    private readonly InFlightGate _gate;
    private int _holds; // pages that somebody pinned: the driver waits for them, as memunmap_pages does
    private bool _isReturned;

    internal PeerUserMapping(HostContext host, PeerPool pool, PeerAllocation allocation, PciFunction processor)
    {
        (_host, _pool, _allocation, _port) = (host, pool, allocation, new DmaPort(processor));
        _gate = new InFlightGate(() =>
        {
            using (_host.Enter())
            {
                ReturnPages();
            }
        });
    }

    /// <summary>Who mapped it, for people.</summary>
    public string Holder => _allocation.Holder;

    /// <summary>Whole pages.</summary>
    public ulong LengthBytes => _allocation.Range.LengthBytes;

    /// <summary>Whether a touch faults: it was ended or zapped. Readable without the lock.</summary>
    public bool IsGone => _gate.IsClosed;

    /// <summary>
    /// Copies out of the mapping, as loads of the process. Without the host lock; one thread at a time.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EFAULT"/>, a SIGBUS, when the mapping is gone, for a range outside it, or when nothing answers
    /// on the bus; then some of the bytes may have been copied.
    /// </returns>
    public Errno TryRead(ulong offset, Span<byte> destination)
    {
        if (!IsInside(offset, destination.Length))
        {
            return Errno.EFAULT;
        }

        while (!destination.IsEmpty)
        {
            if (!_gate.TryEnter())
            {
                return Errno.EFAULT;
            }

            int length = Math.Min(destination.Length, BlockBytes);
            Errno errno = _port.TryRead(_allocation.Range.Start + offset, length, out ReadOnlySpan<byte> bytes);
            bytes.CopyTo(destination);
            _gate.Exit();
            if (errno != Errno.Success)
            {
                return errno;
            }

            destination = destination[bytes.Length..];
            offset += (ulong)bytes.Length;
        }

        return Errno.Success;
    }

    /// <summary>Copies into the mapping, as stores of the process. As <see cref="TryRead"/>.</summary>
    public Errno TryWrite(ulong offset, ReadOnlySpan<byte> source)
    {
        if (!IsInside(offset, source.Length))
        {
            return Errno.EFAULT;
        }

        while (!source.IsEmpty)
        {
            if (!_gate.TryEnter())
            {
                return Errno.EFAULT;
            }

            int length = Math.Min(source.Length, BlockBytes);
            Errno errno = _port.TryWrite(_allocation.Range.Start + offset, length, out Span<byte> bytes);
            source[..bytes.Length].CopyTo(bytes);
            _gate.Exit();
            if (errno != Errno.Success)
            {
                return errno;
            }

            source = source[bytes.Length..];
            offset += (ulong)bytes.Length;
        }

        return Errno.Success;
    }

    /// <summary>
    /// The process unmaps, or is dead: the pages go back to the pool. A mapping that was zapped has nothing left to
    /// end.
    /// </summary>
    public void End()
    {
        _host.AssertHeld();
        Close();
    }

    public override string ToString() => $"mapping of {_allocation}";

    /// <summary>Where the pages are, as the processor says it.</summary>
    internal DeviceRange Range => _allocation.Range;

    /// <summary>
    /// A page of it is held by somebody who will let it go: the pages stay out of the pool meanwhile.
    /// </summary>
    internal void Hold() => _holds++;

    /// <summary>Ends a <see cref="Hold"/>; the last one after the end gives the pages back.</summary>
    internal void LetGo()
    {
        _holds--;
        ReturnPages();
    }

    internal void Zap()
    {
        _host.Trace("p2pmem.zap", Holder, (long)LengthBytes);
        Close();
    }

    private void Close()
    {
        if (_gate.IsClosed)
        {
            return;
        }

        _pool.Forget(this);
        if (_gate.Close(out _))
        {
            ReturnPages();
        }
    }

    private void ReturnPages()
    {
        if (_holds == 0 && !_isReturned && _gate.IsDrained)
        {
            _isReturned = true;
            _pool.Free(_allocation);
        }
    }

    private bool IsInside(ulong offset, int length) =>
        offset <= LengthBytes && (ulong)length <= LengthBytes - offset;
}
