using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

public enum FenceArrayKind
{
    /// <summary>Signals after the last of its fences.</summary>
    All,

    /// <summary>Signals after the first of its fences (until Linux 6.12, <c>signal_on_any</c>).</summary>
    Any,
}

/// <summary>
/// Several fences as one (<c>dma_fence_array</c>). It signals after the host lock was released in which the deciding
/// part signalled, as the kernel's does from interrupt work: the two moments are distinct. Its error is the first error
/// of a part that signalled while somebody waited; found signalled by a look, it has none. Its work has ended when that
/// of all parts has.
/// </summary>
public sealed class FenceArray : Fence
{
    private readonly Fence[] _fences;
    private bool _isEnabled;
    private int _pending;
    private Errno _partError;

    /// <param name="host">The host of all parts.</param>
    /// <param name="fences">Copied. Plain fences: a container in it is a violation.</param>
    /// <param name="kind">When it signals.</param>
    /// <param name="context">A context of its own when null.</param>
    /// <param name="seqno">Position within the context.</param>
    /// <exception cref="ArgumentException">No fences: who would signal it?</exception>
    public FenceArray(
        HostContext host,
        IReadOnlyCollection<Fence> fences,
        FenceArrayKind kind = FenceArrayKind.All,
        ulong? context = null,
        ulong seqno = 1)
        : base(host, context ?? host.AllocateFenceContexts(), seqno, Describe(kind, fences.Count))
    {
        if (fences.Count == 0)
        {
            throw new ArgumentException("an array of no fences would never signal", nameof(fences));
        }

        _fences = [.. fences];
        Kind = kind;
        _pending = kind == FenceArrayKind.All ? _fences.Length : 1;
        foreach (Fence fence in _fences)
        {
            if (fence.IsContainer)
            {
                host.Checker.Report(
                    ViolationKind.FenceContainer, ToString(), $"holds {fence}, itself a container; merge them instead");
            }
        }
    }

    public FenceArrayKind Kind { get; }

    /// <summary>The parts, in the order they were given.</summary>
    public IReadOnlyList<Fence> Fences => _fences;

    public override bool IsContainer => true;

    public override bool IsUserControlled => Array.Exists(_fences, f => f.IsUserControlled);

    private protected override string OwnDriverName => "dma_fence_array";

    private protected override string OwnTimelineName => "unbound";

    public override void ListWaits(WaitEdges edges)
    {
        // One pending part of an any-array may hang for ever while another gets on: no edge is sure.
        if (IsSignaled || Kind == FenceArrayKind.Any)
        {
            return;
        }

        foreach (Fence fence in _fences)
        {
            if (!fence.IsSignaled)
            {
                edges.Add("includes", fence);
            }
        }
    }

    private protected override bool HandleEnabled()
    {
        _isEnabled = true;
        foreach (Fence fence in _fences)
        {
            if (!fence.TryObserve(HandlePart))
            {
                Count(fence);
            }
        }

        return _pending > 0;
    }

    private protected override bool IsDone()
    {
        if (_isEnabled)
        {
            return _pending <= 0;
        }

        int pending = _pending;
        foreach (Fence fence in _fences)
        {
            if (fence.CheckSignaled() && --pending == 0)
            {
                return true;
            }
        }

        return false;
    }

    private protected override void ForwardDeadline(TimeSpan deadline)
    {
        if (!Host.Has(CoreDefences.DeadlineForwarding))
        {
            return;
        }

        foreach (Fence fence in _fences)
        {
            fence.SetDeadline(deadline);
        }
    }

    private protected override void CompleteFromWithin()
    {
        bool ended = Array.TrueForAll(_fences, f => f.HasEnded);
        Complete(_partError, forced: Array.Exists(_fences, f => f is { IsForced: true, HasEnded: false }), ended);
        HandlePartEnded();
    }

    private static string Describe(FenceArrayKind kind, int count) =>
        kind == FenceArrayKind.All ? $"all of {count} fences" : $"any of {count} fences";

    private void HandlePart(Fence fence)
    {
        if (Count(fence))
        {
            Host.Defer(CompleteLater);
        }
    }

    // True for the part that decides.
    private bool Count(Fence fence)
    {
        _partError = _partError == Errno.Success ? fence.Error : _partError;
        return --_pending == 0;
    }

    private void CompleteLater()
    {
        using (Host.Enter())
        {
            CheckSignaled();
        }
    }

    private void HandlePartEnded()
    {
        foreach (Fence fence in _fences)
        {
            if (fence.TryObserveEnd(_ => HandlePartEnded()))
            {
                return;
            }
        }

        MarkEnded();
    }
}
