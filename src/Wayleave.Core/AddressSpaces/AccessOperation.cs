using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Loads or stores of a process: page by page, each with the fault it takes. Between two pages others may run, as
/// between two instructions.
/// </summary>
public sealed class AccessOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly Memory<byte> _destination;
    private readonly ReadOnlyMemory<byte> _source;
    private readonly ulong _address;
    private readonly bool _isWrite;

    internal AccessOperation(
        AddressSpace space, ulong address, ReadOnlyMemory<byte> source, bool isWrite, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} stores")
    {
        (_space, _address, _source, _isWrite) = (space, address, source, isWrite);
    }

    internal AccessOperation(
        AddressSpace space, ulong address, Memory<byte> destination, bool isWrite, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} loads")
    {
        (_space, _address, _destination, _isWrite) = (space, address, destination, isWrite);
    }

    /// <summary>How many bytes were copied: all, unless it failed.</summary>
    public int BytesDone { get; private set; }

    private protected override IEnumerable<Pause> Run()
    {
        int length = _isWrite ? _source.Length : _destination.Length;
        while (BytesDone < length)
        {
            ulong at = _address + (ulong)BytesDone;
            int part = Math.Min(length - BytesDone, PageFrame.SizeBytes - (int)(at % PageFrame.SizeBytes));
            while (!TryCopy(at, part))
            {
                foreach (Pause pause in Fault(at / PageFrame.SizeBytes))
                {
                    yield return pause;
                }

                if (Errno != Errno.Success)
                {
                    yield break;
                }
            }

            BytesDone += part;
            if (BytesDone < length)
            {
                yield return "touch the next page";
            }
        }
    }

    private bool TryCopy(ulong at, int part)
    {
        if (_space.FindRegion(at) is { Peer: { IsGone: false } peer } region)
        {
            ulong offset = region.FileOffset + at - region.Addresses.Start;
            Errno = _isWrite
                ? peer.TryWrite(offset, _source.Span.Slice(BytesDone, part))
                : peer.TryRead(offset, _destination.Span.Slice(BytesDone, part));
            return true;
        }

        return _isWrite
            ? _space.TryWriteNow(at, _source.Span.Slice(BytesDone, part))
            : _space.TryReadNow(at, _destination.Span.Slice(BytesDone, part));
    }

    private IEnumerable<Pause> Fault(ulong page)
    {
        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: false);
        try
        {
            foreach (Pause pause in _space.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            FaultFlags flags = _isWrite ? FaultFlags.Write : FaultFlags.None;
            if (StepErrno == Errno.Success && !TryServeNow(page, flags))
            {
                foreach (Pause pause in _space.Faults.Handle(this, page, flags))
                {
                    yield return pause;
                }
            }

            if (TakeStepErrno(out Errno errno))
            {
                Errno = errno;
            }
        }
        finally
        {
            _space.Lock.Release(hold);
            Memory.HandleProgress();
        }
    }

    private bool TryServeNow(ulong page, FaultFlags flags)
    {
        bool isServed = _space.Faults.TryHandleNow(page, flags, out Errno errno);
        StepErrno = errno;
        return isServed;
    }
}
