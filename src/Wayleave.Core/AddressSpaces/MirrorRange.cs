using Wayleave.Core.Checking;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>What a mirror asks of a page, and what it gets (<c>enum hmm_pfn_flags</c>).</summary>
[Flags]
public enum MirrorBits
{
    /// <summary>Asked: only look. Answered: nothing is there, a fault may help.</summary>
    None = 0,

    /// <summary>Asked: fault it in (<c>HMM_PFN_REQ_FAULT</c>).</summary>
    Fault = 1 << 0,

    /// <summary>Asked, with <see cref="Fault"/>: for writing (<c>HMM_PFN_REQ_WRITE</c>).</summary>
    FaultWrite = 1 << 1,

    /// <summary>Answered: the device may read the page.</summary>
    Valid = 1 << 2,

    /// <summary>Answered: it may write it.</summary>
    Write = 1 << 3,

    /// <summary>Answered: no fault will ever help: a hole, a device's registers, lost content.</summary>
    Error = 1 << 4,

    /// <summary>
    /// Answered: the page is another device's, which lets this one reach it at <see cref="MirrorPage.Address"/>. Only
    /// with <see cref="MirrorRange.AllowsPeerToPeer"/>.
    /// </summary>
    PeerToPeer = 1 << 5,
}

/// <summary>What a mirror knows of a page.</summary>
/// <param name="Bits">Answers of <see cref="MirrorBits"/>.</param>
/// <param name="Frame">The page, or null. Nothing keeps it there but the notifier.</param>
/// <param name="Order">Of the mapping that it is a part of, as a power of two pages.</param>
/// <param name="Address">For <see cref="MirrorBits.PeerToPeer"/>.</param>
public readonly record struct MirrorPage(
    MirrorBits Bits, PageFrame? Frame = null, int Order = 0, DeviceAddress Address = default)
{
    public bool IsValid => (Bits & MirrorBits.Valid) != 0;

    public bool IsWritable => (Bits & MirrorBits.Write) != 0;
}

/// <summary>
/// A range that a device wants to reach by a process's addresses (<c>struct hmm_range</c>). Made by the driver, used
/// again for each try.
/// </summary>
public sealed class MirrorRange
{
    /// <summary>How long a driver tries before its user gets EBUSY (<c>HMM_RANGE_DEFAULT_TIMEOUT</c>).</summary>
    public static readonly TimeSpan DefaultTimeout = TimeSpan.FromMilliseconds(1000);

    private readonly MirrorPage[] _pages;

    /// <param name="space">Whose memory.</param>
    /// <param name="notifier">A subscription that covers the range.</param>
    /// <param name="addresses">Whole pages.</param>
    public MirrorRange(AddressSpace space, IntervalNotifier notifier, AddressRange addresses)
    {
        ArgumentNullException.ThrowIfNull(space);
        ArgumentNullException.ThrowIfNull(notifier);
        if (!addresses.IsPageAligned || addresses.LengthBytes == 0 || !notifier.Range.Contains(addresses))
        {
            throw new ArgumentException($"{addresses} is not whole pages inside {notifier}", nameof(addresses));
        }

        (Space, Notifier, Addresses) = (space, notifier, addresses);
        _pages = new MirrorPage[addresses.LengthBytes / PageFrame.SizeBytes];
        Requests = new MirrorBits[_pages.Length];
    }

    public AddressSpace Space { get; }

    public IntervalNotifier Notifier { get; }

    public AddressRange Addresses { get; }

    /// <summary>What <see cref="IntervalNotifier.BeginRead"/> returned before this look.</summary>
    public ulong Sequence { get; set; }

    /// <summary>What is asked of each page, where <see cref="RequestMask"/> lets it count.</summary>
    public IList<MirrorBits> Requests { get; }

    /// <summary>Which bits of <see cref="Requests"/> count (<c>pfn_flags_mask</c>).</summary>
    public MirrorBits RequestMask { get; init; }

    /// <summary>What is asked of every page (<c>default_flags</c>).</summary>
    public MirrorBits DefaultRequest { get; init; }

    /// <summary>
    /// Private pages of devices of this owner are answered as they are; those of others come home first
    /// (<c>dev_private_owner</c>).
    /// </summary>
    public object? Owner { get; init; }

    /// <summary>
    /// The device reaches pages by <see cref="PageFrame.Address"/>. The page of zeroes, which the processor is shown
    /// where nobody has written, is in no memory of the machine's: a fault makes it a page of the process's own.
    /// </summary>
    public bool NeedsAddresses { get; init; }

    /// <summary>
    /// An extension: private pages of other devices stay where they are if <see cref="Client"/> has a way to them and
    /// their driver lets it (<see cref="IPeerReachableMemory"/>).
    /// </summary>
    public bool AllowsPeerToPeer { get; init; }

    /// <summary>The device that will use the addresses, for <see cref="AllowsPeerToPeer"/>.</summary>
    public PciFunction? Client { get; init; }

    /// <summary>
    /// Where <see cref="Update"/> brings the pages first, if they can go there (<c>svm_range_restore_pages</c>); null
    /// leaves them where they are. The device's own, of this <see cref="Owner"/>. Pages that cannot go stay.
    /// </summary>
    public DeviceMemory? Preferred { get; init; }

    /// <summary>
    /// What was seen. After EBUSY what was not reached yet is as it was before.
    /// </summary>
    public IReadOnlyList<MirrorPage> Pages => _pages;

    /// <summary>
    /// Looks at the range, faulting in what is asked for (<c>hmm_range_fault</c>), under the address-space lock. What
    /// is seen counts only if <see cref="IntervalNotifier.ReadRetry"/> says so afterwards.
    /// </summary>
    /// <remarks>
    /// <see cref="Errno.EBUSY"/>: the range was invalidated since <see cref="Sequence"/>; begin again.
    /// <see cref="Errno.EPERM"/>: writing was asked for where the process may not. <see cref="Errno.EFAULT"/>: a page
    /// that was asked for is in a hole, a device's region, one that may not be read, or its fault failed.
    /// </remarks>
    public MirrorFaultOperation Fault(Activity? activity = null) => new(this, activity);

    /// <summary>
    /// The whole loop of a driver: begins to read, looks, and gives the pages to the device if nothing came between;
    /// otherwise again, for <see cref="DefaultTimeout"/> at most.
    /// </summary>
    /// <param name="program">
    /// Runs with the host lock held when <see cref="Pages"/> are certain: the device may use them until the mirror's
    /// callback.
    /// </param>
    /// <param name="activity">Who faults; null for one of its own.</param>
    public MirrorUpdateOperation Update(Action<MirrorRange> program, Activity? activity = null)
    {
        ArgumentNullException.ThrowIfNull(program);
        return new(this, program, activity);
    }

    internal void Set(int index, MirrorPage page) => _pages[index] = page;

    internal MirrorBits RequestOf(int index) => (Requests[index] & RequestMask) | DefaultRequest;
}
