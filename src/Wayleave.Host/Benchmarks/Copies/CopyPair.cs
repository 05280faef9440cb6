using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>
/// Copies of one size between two ends, by an engine and by the processor, over the same places one behind the other.
/// </summary>
internal sealed class CopyPair
{
    // A caller who asks for a few more at once, as one submission of a program has several copies, need not take the
    // lock for each.
    private const int RefillShare = 2;

    private const int PlainBytesPerLook = 1 << 20;

    private static readonly TimeSpan s_patience = TimeSpan.FromMicroseconds(50);

    private readonly HostContext _host;
    private readonly CopyEnd _from;
    private readonly CopyEnd _to;
    private readonly DmaPort _processor;
    private readonly AcquireTicket _ticket;
    private readonly Queue<Fence> _pending;
    private readonly int _depth;
    private readonly int _sizeBytes;
    private readonly int _slots;
    private int _next;

    /// <summary>Both ends hold <paramref name="slots"/> places; the host lock is not held.</summary>
    public CopyPair(WayleaveHost host, CopyEnd from, CopyEnd to, int sizeBytes, int slots, int depth)
    {
        (_host, _from, _to, _sizeBytes, _slots, _depth) = (host.Context, from, to, sizeBytes, slots, depth);
        _processor = new DmaPort(host.Fabric.Processor);
        _pending = new Queue<Fence>(depth);
        using (_host.Enter())
        {
            _ticket = new AcquireTicket(_host, "bench copy");
        }
    }

    /// <summary>
    /// Keeps the ring full for a while, then waits for what is in it. Spins: the engine's thread has the other
    /// processor.
    /// </summary>
    /// <returns>Bytes per second, from the first submission to the last fence.</returns>
    /// <exception cref="WayleaveException">A copy failed, or the memory was taken away.</exception>
    public double RunEngine(TimeSpan duration)
    {
        long copies = 0;
        long start = Stopwatch.GetTimestamp();
        long progress = start;
        while (Stopwatch.GetElapsedTime(start) < duration)
        {
            int room = _depth - _pending.Count;
            if (room >= Math.Max(1, _depth / RefillShare))
            {
                Submit(room);
                copies += room;
            }

            Await(ref progress);
        }

        Drain();

        return copies * (double)_sizeBytes / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Copies by this thread, with what a program would call: <see cref="Span{T}.CopyTo"/>.</summary>
    /// <returns>Bytes per second.</returns>
    public double RunPlain(TimeSpan duration)
    {
        ReadOnlySpan<byte> from = Bytes(_from);
        Span<byte> to = Bytes(_to);
        long copies = 0;
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < duration)
        {
            // A look at the clock costs as much as a part of a short copy.
            for (int bytes = 0; bytes < PlainBytesPerLook; bytes += _sizeBytes)
            {
                int offset = NextSlot() * _sizeBytes;
                from.Slice(offset, _sizeBytes).CopyTo(to.Slice(offset, _sizeBytes));
                copies++;
            }
        }

        return copies * (double)_sizeBytes / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Lets the engine copy every place once, between bytes that differ.</summary>
    /// <returns>How many bytes did not arrive.</returns>
    public long CountWrong()
    {
        FillByPlace(Bytes(_from));
        Bytes(_to).Clear();
        _next = 0;
        for (int i = 0; i < _slots; i += _depth)
        {
            Submit(Math.Min(_depth, _slots - i));
            Drain();
        }

        Span<byte> from = Bytes(_from);
        Span<byte> to = Bytes(_to);
        long wrong = 0;
        for (int i = 0; i < from.Length; i++)
        {
            wrong += from[i] != to[i] ? 1 : 0;
        }

        return wrong;
    }

    // No two neighbours are alike, so that a shift is seen as well; no byte is zero.
    private static void FillByPlace(Span<byte> bytes)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)((((uint)i * 2654435761u) >> 24) | 1);
        }
    }

    private void Submit(int count)
    {
        using (_host.Enter())
        {
            _ticket.Renew();
            Lock(_from);
            Lock(_to);
            _ticket.Done();
            for (int i = 0; i < count; i++)
            {
                ulong offset = (ulong)NextSlot() * (ulong)_sizeBytes;
                CopyUser.TryCopyLocked(
                    _ticket, _from.User, offset, _to.User, offset, (ulong)_sizeBytes, out Fence? fence)
                    .ThrowIfFailed("submit a copy");
                _pending.Enqueue(fence!);
            }

            _from.Buffer.Reservation.Unlock(_ticket);
            _to.Buffer.Reservation.Unlock(_ticket);
            _ticket.Finish();
        }
    }

    // Nobody else knows these buffers, so nobody holds them, and nobody moves them.
    private void Lock(CopyEnd end)
    {
        if (end.Buffer.Reservation.TryLock(_ticket).Kind != LockOutcomeKind.Acquired)
        {
            throw new InvalidOperationException($"somebody else has the reservation of {end.Buffer.Name}");
        }

        end.User.TryMapLocked(_ticket).ThrowIfFailed("map for a copy");
    }

    private void Drain()
    {
        long progress = Stopwatch.GetTimestamp();
        while (_pending.Count > 0)
        {
            Await(ref progress);
        }
    }

    // Yields when nothing comes for a while: the engine's thread may have been put on this processor.
    private void Await(ref long progress)
    {
        if (Reap())
        {
            progress = Stopwatch.GetTimestamp();
        }
        else if (Stopwatch.GetElapsedTime(progress) > s_patience)
        {
            Thread.Yield();
        }
        else
        {
            Thread.SpinWait(5);
        }
    }

    private bool Reap()
    {
        bool any = false;
        while (_pending.TryPeek(out Fence? fence) && fence.IsSignaled)
        {
            fence.Error.ThrowIfFailed("copy");
            _pending.Dequeue();
            any = true;
        }

        return any;
    }

    private int NextSlot()
    {
        int slot = _next;
        _next = _next + 1 == _slots ? 0 : _next + 1;
        return slot;
    }

    private Span<byte> Bytes(CopyEnd end)
    {
        int length = _slots * _sizeBytes;
        end.Physical.TryLocate(0, out DeviceAddress start, out ulong contiguous);
        if (contiguous < (ulong)length || _processor.TryWrite(start, length, out Span<byte> bytes) != Errno.Success
            || bytes.Length < length)
        {
            throw new WayleaveException(
                Errno.ENOMEM, "measure plain copies", $"the memory of {end.Buffer.Name} is not in one piece");
        }

        return bytes;
    }
}
