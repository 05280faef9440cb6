using System.Globalization;

namespace Wayleave.Core.Checking;

/// <summary>
/// What lockdep is to a kernel, for one host: it refuses waits that would close a circle, reports classes of locks that
/// are taken in opposite orders, although nothing hung, and keeps every contract that was broken. Nothing of it is
/// shared between hosts. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class Checker
{
    private readonly HostContext _host;
    private readonly List<Violation> _violations = [];
    private WaitGraph? _graph; // both are made when they are needed: most hosts of an exploration never do
    private LockOrder? _order;

    internal Checker(HostContext host, CheckerOptions options)
    {
        options.Validate();
        (_host, Options) = (host, options);
    }

    public CheckerOptions Options { get; }

    /// <summary>The first <see cref="CheckerOptions.ViolationsKeptMax"/> violations, oldest first.</summary>
    public IReadOnlyList<Violation> Violations => _violations;

    /// <summary>All violations, kept or not.</summary>
    public long ViolationCount { get; private set; }

    /// <summary>
    /// A fence that only a user's program signals was let in where others wait implicitly
    /// (<see cref="CheckerOptions.PermitsUserFences"/>): a hang is the user's.
    /// </summary>
    public bool IsTainted { get; private set; }

    /// <summary>How many waits were looked at.</summary>
    public long WaitsChecked => _graph?.SearchCount ?? 0;

    /// <summary>How many nodes of the graph that took, over all waits.</summary>
    public long NodesVisited => _graph?.NodeCount ?? 0;

    private LockOrder Order => _order ??= new LockOrder();

    /// <summary>A kind of lock of the caller's own; it takes part in the order from now on.</summary>
    /// <exception cref="InvalidOperationException">There are <see cref="LockClass.CountMax"/> already.</exception>
    public LockClass DefineClass(string name)
    {
        _host.AssertHeld();
        return Order.Define(name);
    }

    /// <summary>
    /// A lock of that class may be waited for here; a violation inside a <see cref="SignalingSection"/> if fences are
    /// waited for under it.
    /// </summary>
    /// <param name="lockClass">Which kind.</param>
    /// <param name="what">Which one, for people.</param>
    public void MightLock(LockClass lockClass, string what)
    {
        _host.AssertHeld();
        if (SignalingSection.Who is { } who && Options.ChecksLockOrder)
        {
            CheckOrder(who, LockClass.FenceSignaling, SignalingSection.What, lockClass, what);
        }
    }

    /// <summary>
    /// Memory may have to be taken from somebody here (<c>might_alloc</c> with GFP_KERNEL): a buffer is evicted, a page
    /// reclaimed. In the end that waits for fences.
    /// </summary>
    /// <param name="what">For people.</param>
    public void MightReclaim(string what) => MightLock(LockClass.Reclaim, what);

    /// <summary>
    /// A fence may be waited for here (<c>__dma_fence_might_wait</c>), whether or not one is pending.
    /// </summary>
    /// <param name="what">Which, or whose, for people.</param>
    public void MightWaitForFence(string what) => MightLock(LockClass.FenceSignaling, what);

    /// <summary>Keeps a broken contract and traces <c>violation.KIND</c>; goes on, as the kernel's WARN does.</summary>
    public void Report(ViolationKind kind, string subject, string message)
    {
        _host.AssertHeld();
        ViolationCount++;
        if (_violations.Count < Options.ViolationsKeptMax)
        {
            _violations.Add(new Violation(kind, subject, message, _host.Now));
        }

        _host.Trace(Mark(kind), subject, ViolationCount);
    }

    /// <summary>
    /// The circle that would close if <paramref name="waiter"/> waited for <paramref name="target"/>, after it was
    /// reported; null when there is none or nobody looks.
    /// </summary>
    internal WaitCycle? FindCycle(IWaitNode waiter, string verb, IWaitNode target)
    {
        if (!Options.FindsWaitCycles || !_host.Has(CoreDefences.WaitGraph))
        {
            return null;
        }

        _graph ??= new WaitGraph();
        WaitCycle? cycle = _graph.Find(waiter, verb, target);
        if (cycle is not null)
        {
            Report(ViolationKind.WaitCycle, waiter.Label, $"the wait would never end: {cycle}");
        }

        return cycle;
    }

    internal void Taint() => IsTainted = true;

    /// <summary>One class is taken while another is held.</summary>
    internal void CheckOrder(string who, LockClass held, string heldFor, LockClass taken, string takenFor)
    {
        bool isInverted = held == taken || Order.IsBefore(taken, held);
        if (!isInverted)
        {
            Order.Learn(held, taken, who);
            return;
        }

        if (!Order.TryMarkReported(held, taken))
        {
            return;
        }

        string why = held == taken
            ? $"one {taken} inside another"
            : $"elsewhere it is the other way round: {Order.Explain(taken, held)}";
        string takes = taken == LockClass.FenceSignaling ? "waits for a fence" : $"takes {taken}";
        ViolationKind kind = held == LockClass.FenceSignaling
            ? ViolationKind.SignalingSection
            : ViolationKind.LockOrder;
        Report(kind, who, string.Create(
            CultureInfo.InvariantCulture, $"{takes} ({takenFor}) inside {held} ({heldFor}); {why}"));
    }

    private static string Mark(ViolationKind kind) => kind switch
    {
        ViolationKind.ReserveFences => "violation.reserve_fences",
        ViolationKind.FenceError => "violation.fence_error",
        ViolationKind.FenceOrder => "violation.fence_order",
        ViolationKind.FenceDropped => "violation.fence_dropped",
        ViolationKind.FenceContainer => "violation.fence_container",
        ViolationKind.IndefiniteFence => "violation.indefinite_fence",
        ViolationKind.WaitArguments => "violation.wait_arguments",
        ViolationKind.FenceWaitPolicy => "violation.fence_wait_policy",
        ViolationKind.Ticket => "violation.ticket",
        ViolationKind.LockOrder => "violation.lock_order",
        ViolationKind.SignalingSection => "violation.signaling_section",
        ViolationKind.WaitCycle => "violation.wait_cycle",
        ViolationKind.Export => "violation.export",
        ViolationKind.ImporterKind => "violation.importer_kind",
        ViolationKind.Pin => "violation.pin",
        ViolationKind.ExporterAnswer => "violation.exporter_answer",
        ViolationKind.LateUnmap => "violation.late_unmap",
        ViolationKind.UndrainedUnmap => "violation.undrained_unmap",
        ViolationKind.Notifier => "violation.notifier",
        ViolationKind.PagePin => "violation.page_pin",
        _ => throw new ArgumentOutOfRangeException(nameof(kind), kind, null),
    };
}
