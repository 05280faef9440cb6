using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;

namespace Wayleave.Linux.UserFaults;

// What the kernel's own notifiers know and userfaultfd does not: a change that is told by an event goes on as soon as
// the event was taken, so a round cannot hold it up. It need not: devices use the device's view of the region, which no
// change of the process takes away. What a round gives is that after it no device uses the range, and that what a
// device looked up before it is refused by the sequence.

/// <summary>
/// The changes of a real process's memory as the source of notifiers: each event of a <see cref="UserFaultRegion"/>
/// becomes a round of an <see cref="AddressSpace"/>, whose mirrors subscribe to the region's own addresses.
/// </summary>
public sealed class UserFaultNotifier
{
    private readonly AddressSpace _space;
    private readonly UserFaultRegion _region;
    private readonly Func<ulong, byte[]?>? _content;
    private readonly Activity _activity;

    /// <param name="space">Whose mirrors are told. Host lock held by the caller.</param>
    /// <param name="region">Whose events are taken, by this object alone. Stays the caller's.</param>
    /// <param name="content">
    /// The page that a fault finds, by its address; null for zeroes. Called without the host lock.
    /// </param>
    public UserFaultNotifier(AddressSpace space, UserFaultRegion region, Func<ulong, byte[]?>? content = null)
    {
        ArgumentNullException.ThrowIfNull(space);
        ArgumentNullException.ThrowIfNull(region);
        (_space, _region, _content) = (space, region, content);
        _activity = new Activity(space.Host, ActivityKind.Thread, "userfaultfd");
    }

    /// <summary>Faults that were served.</summary>
    public long FaultCount { get; private set; }

    /// <summary>Rounds that have ended.</summary>
    public long RoundCount { get; private set; }

    /// <summary>
    /// Takes one event and does what it asks for: serves the fault, or tells the mirrors and waits until none of them
    /// uses the range. Without the host lock; one thread at a time. A mirror that waits for a fence is waited for here.
    /// </summary>
    /// <param name="timeout">For the event. Zero only looks; or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <param name="served">What it was; its child descriptor is closed.</param>
    /// <returns>False when the time is up.</returns>
    public bool TryServe(TimeSpan timeout, out UserFaultEvent served)
    {
        if (!_region.TryTake(out served) && (!_region.Wait(timeout) || !_region.TryTake(out served)))
        {
            return false;
        }

        switch (served.Kind)
        {
            case UserFaultKind.PageFault:
                Fill(served.Addresses.Start);
                break;
            case UserFaultKind.Remove:
                Tell(served.Addresses, InvalidateEvent.Clear);
                break;
            case UserFaultKind.Fork:
                // The child's pages are not ours to serve: shared memory has them in the memfd.
                served.Child?.Dispose();
                Tell(_region.Addresses, InvalidateEvent.ProtectionPage);
                break;
            default:
                Tell(served.Addresses, InvalidateEvent.Unmap);
                break;
        }

        return true;
    }

    private void Fill(ulong address)
    {
        byte[]? content = _content?.Invoke(address);
        Errno errno = content is null ? _region.TryFillZero(address) : _region.TryFill(address, content);

        // EEXIST: it is there. ENOENT: it was unmapped. EAGAIN: an event of a change comes first, and who faulted was
        // woken and faults again.
        if (errno is not (Errno.Success or Errno.EEXIST or Errno.ENOENT or Errno.EAGAIN))
        {
            throw new LinuxException("UFFDIO_COPY", $"0x{address:x}", errno);
        }

        FaultCount++;
    }

    private void Tell(AddressRange range, InvalidateEvent why)
    {
        InvalidationRound round;
        using (_space.Host.Enter())
        {
            round = _space.StartInvalidation(_activity, new InvalidateRange(range, why));
        }

        SpinWait spin = default;
        while (true)
        {
            using (_space.Host.Enter())
            {
                while (round.CanAdvance)
                {
                    round.Advance();
                }

                if (round.State is InvalidationState.Started)
                {
                    round.End();
                }

                if (round.State is InvalidationState.Ended or InvalidationState.Refused)
                {
                    break;
                }
            }

            spin.SpinOnce(); // an access of a device is bounded by one block, and the job of a fence by its driver
        }

        RoundCount++;
    }
}
