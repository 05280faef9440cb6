using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Runners;

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

    // Between two looks at a fence: each takes its cache line from the engine, which is about to write there.
    private const int SpinsPerLook = 5;

    private readonly HostContext _host;
    private readonly CopyEnd _from;
    private readonly CopyEnd _to;
    private readonly DmaPort _processor;
    private readonly AcquireTicket _ticket;
    private readonly ProcessorMark _engineProcessor;
    private readonly Fence?[] _fences; // a ring
    private readonly int _depth;
    private readonly int _sizeBytes;
    private readonly int _slots;
    private readonly int _refill;
    private int _next;
    private long _first; // of those that are not known to have ended
    private int _count;
    private int _unchecked; // ended before those; their errors were not looked at

    /// <summary>Both ends hold <paramref name="slots"/> places; the host lock is not held.</summary>
    public CopyPair(
        WayleaveHost host, GpuDevice engine, CopyEnd from, CopyEnd to, int sizeBytes, int slots, int depth)
    {
        (_host, _from, _to, _sizeBytes, _slots, _depth) = (host.Context, from, to, sizeBytes, slots, depth);
        _processor = new DmaPort(host.Fabric.Processor);
        _engineProcessor = host.Gpus.First(g => g.Device == engine).CopyProcessor;
        _fences = new Fence?[2 * depth];
        _refill = Math.Max(1, depth / RefillShare);
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
        while (Stopwatch.GetElapsedTime(start) < duration)
        {
            int room = _depth - _count;
            if (room >= _refill)
            {
                Submit(room);
                CheckEnded();
                copies += room;
            }

            // What has to end before it submits again: fences of one queue signal in order.
            Await(_refill - (_depth - _count));
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
                _fences[(_first + _count++) % _fences.Length] = fence;
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
        while (_count > 0)
        {
            Await(_count);
        }

        CheckEnded();
    }

    // Spins for a moment until the oldest so many have ended, and yields to the engine's thread where both have one
    // processor.
    private void Await(int fences)
    {
        if (_fences[(_first + fences - 1) % _fences.Length]!.IsSignaled)
        {
            (_first, _count, _unchecked) = (_first + fences, _count - fences, _unchecked + fences);
        }
        else if (_engineProcessor.IsHere)
        {
            Thread.Yield();
        }
        else
        {
            Thread.SpinWait(SpinsPerLook);
        }
    }

    // Behind the next submission, so that the engine has work meanwhile: what they say is in its cache.
    private void CheckEnded()
    {
        for (; _unchecked > 0; _unchecked--)
        {
            ref Fence? fence = ref _fences[(_first - _unchecked) % _fences.Length];
            fence!.Error.ThrowIfFailed("copy");
            fence = null;
        }
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
