using BenchmarkDotNet.Attributes;
using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Microbenchmarks;

/// <summary>
/// One reservation, uncontended but where the name says otherwise; each operation takes the host lock once.
/// </summary>
public class ReservationBenchmarks
{
    private HostContext _host = null!;
    private Reservation _reservation = null!;
    private AcquireTicket _ticket = null!;
    private AcquireTicket _other = null!;
    private AcquireTicket _plain = null!;
    private AcquireTicket _active = null!;
    private Timeline _timeline = null!;
    private Fence _fence = null!;
    private ulong _seqno;

    [Params(true, false)]
    public bool Checker { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _host = new HostContext(TimeProvider.System, checks: Checker ? new CheckerOptions() : CheckerOptions.Off);
        _reservation = new Reservation(_host, "lent");
        using (_host.Enter())
        {
            _timeline = new Timeline(_host, "engine");
            _ticket = new AcquireTicket(_host, "ticket");
            _other = new AcquireTicket(_host, "other");
            _plain = AcquireTicket.CreatePlain(_host, "plain");
            _active = new AcquireTicket(_host, "active", new Activity(_host, ActivityKind.Thread, "thread"));
            _fence = new Fence(_host, _timeline.Context, ++_seqno, "work");
        }
    }

    [Benchmark(Baseline = true, Description = "host lock alone")]
    public void HostLock()
    {
        using (_host.Enter())
        {
            _host.AssertHeld();
        }
    }

    [Benchmark(Description = "lock+unlock, no ticket")]
    public void LockPlain() => LockAndUnlock(_plain);

    [Benchmark(Description = "lock+unlock, ticket")]
    public void LockTicket() => LockAndUnlock(_ticket);

    [Benchmark(Description = "lock+unlock, ticket of an activity")]
    public void LockActive() => LockAndUnlock(_active);

    [Benchmark(Description = "lock+unlock, one waiter")]
    public void LockContended()
    {
        using (_host.Enter())
        {
            _reservation.TryLock(_ticket);
            _reservation.TryLock(_other);
            _reservation.Unlock(_ticket);
            _reservation.Unlock(_other);
        }
    }

    [Benchmark(Description = "lock+reserve+add fence+unlock")]
    public void AddFence()
    {
        using (_host.Enter())
        {
            _reservation.TryLock(_ticket);
            _reservation.ReserveFences(_ticket, 1);
            _reservation.AddFence(_ticket, _fence, ReservationUsage.Bookkeep);
            _reservation.Unlock(_ticket);
        }
    }

    private void LockAndUnlock(AcquireTicket ticket)
    {
        using (_host.Enter())
        {
            _reservation.TryLock(ticket);
            _reservation.Unlock(ticket);
        }
    }
}
