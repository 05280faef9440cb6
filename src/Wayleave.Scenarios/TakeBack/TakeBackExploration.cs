using System.Text.RegularExpressions;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>
/// The same workload, with two pairs of jobs and one time of pressure, in orders that are drawn: which waits would
/// never have ended, and which rules are broken.
/// </summary>
internal static partial class TakeBackExploration
{
    private static readonly TakeBackLimits s_limits = new(JobsMax: 2, MessagesMax: 2, PressureMax: 1, HasOthers: true);

    // Without the peer, which would be told to come again for ever while everybody else hangs.
    private static readonly TakeBackLimits s_quiet = s_limits with { MessagesMax = 0 };

    public static TakeBackResult AddTo(
        TakeBackResult result, TakeBackStrategy strategy, TakeBackOptions options, CancellationToken cancellation)
    {
        Dictionary<string, TakeBackFinding> circles = [], rules = [];
        void Note(IReadOnlyList<Violation> violations)
        {
            foreach (IGrouping<string, Violation> same in violations.GroupBy(KindOf))
            {
                Dictionary<string, TakeBackFinding> found =
                    same.First().Kind == ViolationKind.WaitCycle ? circles : rules;
                int orders = found.TryGetValue(same.Key, out TakeBackFinding? before) ? before.Orders : 0;
                found[same.Key] = new TakeBackFinding(before?.Text ?? same.First().ToString(), orders + 1);
            }
        }

        ExplorationReport checkedOrders = Explore(strategy, options, hasChecker: true, Note, cancellation);
        if (checkedOrders.Failure is { } failure)
        {
            circles["failure"] = new TakeBackFinding(failure.Problem, 1);
        }

        ExplorationReport unchecked_ = Explore(
            strategy, options, hasChecker: false, _ => { }, cancellation);
        return result with
        {
            Circles = [.. circles.Values],
            BrokenRules = [.. rules.Values],
            HangWithoutChecker = unchecked_.Failure is { } hang ? InWords(hang.Problem) : null,
            ExploredOrders = (int)checkedOrders.Counts.Runs,
        };
    }

    // Without those who only serve the others.
    private static string InWords(string problem) =>
        string.Join(", ", problem.Split(", ").Where(
            p => !p.EndsWith("'serve'", StringComparison.Ordinal)
                && !p.EndsWith("'take a fault'", StringComparison.Ordinal)));

    // The same circle in other orders has other pages and other numbers.
    private static string KindOf(Violation violation) =>
        $"{violation.Kind} {Numbers().Replace(violation.ToString(), "#")}";

    [GeneratedRegex("0x[0-9a-f]+|[0-9]+")]
    private static partial Regex Numbers();

    private static ExplorationReport Explore(
        TakeBackStrategy strategy,
        TakeBackOptions options,
        bool hasChecker,
        Action<IReadOnlyList<Violation>> note,
        CancellationToken cancellation)
    {
        TakeBackOptions small = options with
        {
            MessageBytes = TakeBackMachine.Page,
            Slots = 1,
            Depth = 2,
            PressurePages = 3,
            Costs = new TakeBackCosts(),
        };
        return Explorer.Explore(c => Build(c, strategy, small, hasChecker, note), new ExplorationOptions
        {
            Orders = OrderSource.Priorities,
            Seed = options.Seed,
            RunsMax = options.ExploredOrders,
            ShrinkRunsMax = 1,
            StepsMax = 20_000,
            Cancellation = cancellation,
        });
    }

    private static Scenario Build(
        Choices choices,
        TakeBackStrategy strategy,
        TakeBackOptions options,
        bool hasChecker,
        Action<IReadOnlyList<Violation>> note)
    {
        Story story = new(choices);
        VirtualClock clock = new();
        TakeBackMachine machine = new(
            strategy, options, clock, choices.IsTold ? story : null, hasChecker ? null : CheckerOptions.Off,
            SlackOf(strategy));
        machine.Locked(() => machine.Memory.Reclaim(int.MaxValue).Proceed()); // whatever is touched, faults
        TakeBackPeer peer = new(options, clock);
        RdmaEnd.Connect(peer.Nic, machine.Nic);
        TakeBackLimits limits = hasChecker ? s_limits : s_quiet;
        TakeBackWorkload work = new(machine, peer, options, limits, _ => () => true);
        Queue<MemoryRegion> nicFaults = [];
        GpuEviction eviction = machine.Process1.Eviction;
        List<Service> services =
        [
            .. Engines(machine.Gpu0), .. Engines(machine.Gpu1),
            new(machine.Nic.Device.Name, () => machine.Nic.HasWork, () => machine.Nic.Work()),
            new("peer's NIC", () => peer.Nic.HasWork, () => peer.Nic.Work()),
            new("restore", () => eviction.NextDeadline <= clock.Now,
                () => machine.Locked(() => eviction.HandleTimeout(clock.Now))),
            new("faults of the NIC", () => HasFault(machine, nicFaults),
                () => machine.Nic.Serve(nicFaults.Dequeue())),
        ];
        List<Watched> watched = [.. work.Actors().Select(a => new Watched(a.Name, a.Steps))];
        watched.Add(new Watched("faults of gpu1", Faults(machine, work)));
        watched.AddRange(services.Select(s => new Watched(s.Name, Serve(s, work))));

        // Time passes when nobody can do anything without: otherwise a peer that is told to come again would.
        Service time = new("clock", () => !watched.Exists(w => w.IsReady) && Next(machine, peer) is not null,
            () => clock.AdvanceTo(Next(machine, peer)!.Value));
        List<Actor> actors = [.. watched.Select(w => new Actor(w.Name, w.Steps()))];
        actors.Add(new Actor("clock", Serve(time, work)));
        story.Take();
        return new Scenario(
            actors, Invariant: () => { }, AtEnd: () => note(machine.Host.Checker.Violations), Narrate: story.Take);
    }

    // No page to spare of those that can be taken: where a NIC has pinned what a GPU still faults in, two who want the
    // only page left that moves would find it on its way, and be told ENOMEM.
    private static int SlackOf(TakeBackStrategy strategy) =>
        strategy is { NicPagesOnDemand: false, UserMemory: not GpuUserMemory.Pinned } ? 1 : 0;

    private static IEnumerable<Service> Engines(GpuDevice gpu) =>
    [
        new(gpu.ComputeEngine.Name, () => gpu.ComputeEngine.HasReadyJob, () =>
        {
            gpu.ComputeEngine.TryEnter();
            gpu.ComputeEngine.Step();
            gpu.ComputeEngine.Exit();
        }),
        new(gpu.CopyEngine.Name, () => gpu.CopyEngine.HasReadyJob, () =>
        {
            gpu.CopyEngine.TryEnter();
            gpu.CopyEngine.Step();
            gpu.CopyEngine.Exit();
        }),
    ];

    private static TimeSpan? Next(TakeBackMachine machine, TakeBackPeer peer)
    {
        TimeSpan? next = null;
        foreach (TimeSpan? at in (TimeSpan?[])
            [machine.Nic.NextDeadline, peer.Nic.NextDeadline, machine.Process1.Eviction.NextDeadline])
        {
            if (at is { } time && time > machine.Clock.Now && (next is null || time < next))
            {
                next = time;
            }
        }

        return next;
    }

    private static bool HasFault(TakeBackMachine machine, Queue<MemoryRegion> faults)
    {
        while (machine.Nic.TryTakeFault(out MemoryRegion? region))
        {
            faults.Enqueue(region!);
        }

        return faults.Count > 0;
    }

    private static IEnumerable<Step> Serve(Service service, TakeBackWorkload work)
    {
        while (true)
        {
            yield return new("serve", () => service.HasWork() || work.HasEnded);
            if (work.HasEnded)
            {
                yield break;
            }

            service.Work();
        }
    }

    private static IEnumerable<Step> Faults(TakeBackMachine machine, TakeBackWorkload work)
    {
        GpuFaults faults = machine.Process1.Faults;
        while (true)
        {
            yield return new("take a fault", () => faults.PendingCount > 0 || work.HasEnded);
            GpuFault? fault = null;
            if (work.HasEnded || !machine.Locked(() => faults.TryTake(out fault)))
            {
                yield break;
            }

            SpaceOperation? operation = machine.Locked(() => fault!.Start());
            if (operation is not null)
            {
                foreach (Step step in operation.Drive(machine.Host))
                {
                    yield return step;
                }
            }

            machine.Locked(() => fault!.End(operation));
        }
    }

    /// <summary>An actor of which others can see whether it could go on.</summary>
    private sealed class Watched(string name, IEnumerable<Step> steps)
    {
        private Step? _at;

        public string Name => name;

        public bool IsReady => _at is { } at && (at.Ready is not { } ready || ready());

        public IEnumerable<Step> Steps()
        {
            foreach (Step step in steps)
            {
                _at = step;
                yield return step;
                _at = null;
            }
        }
    }
}
