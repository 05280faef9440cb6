using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Simulation;

namespace Wayleave.Tests.Fences;

/// <summary>A host with fences of everybody, and a clock that moves when told.</summary>
public abstract class FenceScenario
{
    protected FenceScenario() => Host = new HostContext(Clock);

    protected VirtualClock Clock { get; } = new();

    protected HostContext Host { get; }

    protected IEnumerable<ViolationKind> Violations => Host.Checker.Violations.Select(v => v.Kind);

    /// <summary>A fence of a context of its own. Host lock held.</summary>
    protected Fence New(string name = "work") => new(Host, Host.AllocateFenceContexts(), 1, name);

    protected Fence[] New(int count) => [.. Enumerable.Range(0, count).Select(i => New($"work {i}"))];

    /// <summary>A fence of that context. Host lock held.</summary>
    protected Fence Of(ulong context, ulong seqno) => new(Host, context, seqno, "work");

    /// <summary>What was deferred runs when the lock is released.</summary>
    protected void Do(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }
}
