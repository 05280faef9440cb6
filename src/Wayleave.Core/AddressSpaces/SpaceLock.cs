using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// The lock of an address space (<c>mmap_lock</c>): many who read the regions (faults, pins, mirrors, migrations) or
/// one who changes them. Fair: a reader does not overtake a writer that waits, so reading twice can deadlock, as in
/// the kernel. Held across pauses. Host lock held by the caller.
/// </summary>
public sealed class SpaceLock : IWaitNode
{
    private readonly string _name;
    private readonly List<SpaceLockHold> _holders = [];
    private readonly List<SpaceLockHold> _queue = [];

    internal SpaceLock(string name) => _name = name;

    public string Label => $"address-space lock of {_name}";

    /// <summary>Readers, or one writer.</summary>
    public int HolderCount => _holders.Count;

    public bool IsWriteHeld => _holders is [{ IsWrite: true }];

    public void ListWaits(WaitEdges edges)
    {
        foreach (SpaceLockHold hold in _holders)
        {
            edges.Add("is held by", hold.Activity);
        }
    }

    internal SpaceLockHold Ask(Activity activity, bool isWrite)
    {
        activity.Touch(LockClass.AddressSpace, _name);
        SpaceLockHold hold = new(activity, isWrite);
        _queue.Add(hold);
        GrantNext();
        return hold;
    }

    /// <summary>Lets go what is held, or gives up what is waited for.</summary>
    internal void Release(SpaceLockHold hold)
    {
        if (_holders.Remove(hold))
        {
            hold.Activity.Release(LockClass.AddressSpace);
        }
        else
        {
            _queue.Remove(hold);
        }

        GrantNext();
    }

    /// <summary>The writer lets others read (<c>mmap_write_downgrade</c>).</summary>
    internal void Downgrade(SpaceLockHold hold)
    {
        hold.IsWrite = false;
        GrantNext();
    }

    private void GrantNext()
    {
        while (_queue.Count > 0)
        {
            SpaceLockHold next = _queue[0];
            if (_holders.Count > 0 && (next.IsWrite || _holders[0].IsWrite))
            {
                return;
            }

            _queue.RemoveAt(0);
            _holders.Add(next);
            next.IsGranted = true;
            next.Activity.NoteHeld(LockClass.AddressSpace, _name);
        }
    }
}

/// <summary>One hold, or one place in the queue.</summary>
internal sealed class SpaceLockHold(Activity activity, bool isWrite)
{
    public Activity Activity { get; } = activity;

    public bool IsWrite { get; set; } = isWrite;

    public bool IsGranted { get; set; }
}
