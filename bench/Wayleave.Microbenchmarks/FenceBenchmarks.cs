using BenchmarkDotNet.Attributes;
using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Microbenchmarks;

/// <summary>A fence from its creation to whoever was told of its signal.</summary>
public class FenceBenchmarks
{
    private readonly Fence[] _parts = new Fence[8];
    private HostContext _host = null!;
    private Timeline _timeline = null!;
    private Activity _waiter = null!;
    private Action<Fence> _callback = null!;
    private long _told;

    [Params(true, false)]
    public bool Checker { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _host = new HostContext(TimeProvider.System, checks: Checker ? new CheckerOptions() : CheckerOptions.Off);
        _callback = _ => _told++;
        using (_host.Enter())
        {
            _timeline = new Timeline(_host, "engine");
            _waiter = new Activity(_host, ActivityKind.Thread, "thread");
        }
    }

    [Benchmark(Baseline = true, Description = "create+signal")]
    public void Signal()
    {
        using (_host.Enter())
        {
            _timeline.CreateFence().Signal();
        }
    }

    /// <summary>What a step of an engine, or a drain, says of itself.</summary>
    [Benchmark(Description = "signalling section")]
    public bool Section()
    {
        using SignalingSection section = new("engine", "ring");
        return SignalingSection.IsInside;
    }

    [Benchmark(Description = "create+signal to callback")]
    public long SignalToCallback()
    {
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            fence.TryAddCallback(_callback);
            fence.Signal();
        }

        return _told;
    }

    [Benchmark(Description = "create+wait as data+signal")]
    public FenceWaitState Wait()
    {
        using (_host.Enter())
        {
            Fence fence = _timeline.CreateFence();
            FenceWait wait = FenceWait.Start(_host, _waiter, fence, FenceWait.NoTimeout);
            fence.Signal();
            return wait.State;
        }
    }

    [Benchmark(Description = "create+run after 8 jobs+signal")]
    public bool RunAfter()
    {
        using (_host.Enter())
        {
            for (int i = 0; i < _parts.Length; i++)
            {
                _parts[i] = new Fence(_host, _timeline.Context, (ulong)i, "job");
            }

            Fence last = _timeline.CreateFence();
            last.TryRunAfter(_parts, out _);
            last.Signal();
            return last.IsSignaled;
        }
    }

    [Benchmark(Description = "merge 8 fences")]
    public Fence Merge()
    {
        using (_host.Enter())
        {
            for (int i = 0; i < _parts.Length; i++)
            {
                _parts[i] = new Fence(_host, (ulong)(i + 100), 1, "job");
            }

            return FenceUnwrap.Merge(_host, _parts);
        }
    }
}
