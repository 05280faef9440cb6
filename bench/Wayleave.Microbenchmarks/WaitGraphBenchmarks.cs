using BenchmarkDotNet.Attributes;
using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Microbenchmarks;

/// <summary>
/// A wait at the end of a chain of jobs that run after each other: what the checker walks before the wait begins.
/// </summary>
public class WaitGraphBenchmarks
{
    private HostContext _host = null!;
    private Activity _waiter = null!;
    private Fence _last = null!;

    [Params(0, 1, 8, 64)]
    public int Depth { get; set; }

    [Params(true, false)]
    public bool Checker { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _host = new HostContext(TimeProvider.System, checks: Checker ? new CheckerOptions() : CheckerOptions.Off);
        using (_host.Enter())
        {
            _waiter = new Activity(_host, ActivityKind.Thread, "thread");
            _last = new Fence(_host, 1000, 1, "job");
            for (int i = 0; i < Depth; i++)
            {
                Fence next = new(_host, (ulong)(1001 + i), 1, "job");
                next.TryRunAfter([_last], out _);
                _last = next;
            }
        }
    }

    [Benchmark(Description = "begin+end of a wait")]
    public Errno Wait()
    {
        using (_host.Enter())
        {
            Errno errno = _waiter.TryBeginWait(_last, out _);
            _waiter.EndWait(_last);
            return errno;
        }
    }
}
