using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>One strategy in simulated time: what it comes to.</summary>
internal sealed class TakeBackRun
{
    private readonly TakeBackOptions _options;
    private readonly TakeBackMachine _m;
    private readonly TakeBackPeer _peer;
    private readonly TakeBackWorkload _work;
    private readonly VirtualClock _clock = new();
    private readonly List<TimeSpan> _sleeps = [];
    private readonly List<Station> _stations = [];
    private readonly EventLoop _loop;
    private readonly Queue<MemoryRegion> _nicFaults = [];
    private long _swapped;
    private long _nicFaultCount;

    private TakeBackRun(TakeBackStrategy strategy, TakeBackOptions options)
    {
        _options = options;
        _m = new TakeBackMachine(strategy, options, _clock);
        _peer = new TakeBackPeer(options, _clock);
        RdmaEnd.Connect(_peer.Nic, _m.Nic);
        _work = new TakeBackWorkload(_m, _peer, options, new TakeBackLimits(), Sleep);
        _loop = new EventLoop(_clock, _stations, Surcharge);
        _swapped = Swapped;
        AddStations();
    }

    private long Swapped => _m.Memory.Stats.SwappedIn + _m.Memory.Stats.SwappedOut;

    /// <summary>Runs a strategy for as long as the options say, and then asks for everything at once.</summary>
    /// <exception cref="ViolationException">Bytes are wrong, or a process is left with what is nobody's.</exception>
    public static TakeBackResult Measure(TakeBackStrategy strategy, TakeBackOptions options)
    {
        TakeBackRun run = new(strategy, options);
        return run.Measure();
    }

    private TakeBackResult Measure()
    {
        bool isAlive = _loop.Run(() => _clock.Now >= _options.Duration);
        TakeBackCounts counts = _work.Counts;
        TimeSpan duration = _clock.Now;
        (int jobs, long written) = (counts.Jobs, counts.WrittenBytes);
        long jobBytes = (long)jobs * _options.MessageBytes;
        _work.Stop();
        isAlive = isAlive && _loop.Run(() => _work.HasEnded);
        long reclaimable = isAlive ? ReclaimAll() : 0;
        if (isAlive)
        {
            RequireBytes();
        }

        GpuEviction eviction = _m.Process1.Eviction;
        long rnr = _m.Nic.Device.Port.Stats.RnrNaksSent;
        string? stopped = isAlive ? null : string.Join(", ", _stations.Where(s => s.At is not null && !s.HasWork())
            .Select(s => $"{s.Name} waits at '{s.At}'"));
        return new TakeBackResult
        {
            Strategy = _m.Strategy.Name,
            Description = _m.Strategy.Description,
            SimulatedUs = duration.TotalMicroseconds,
            StoppedAt = stopped,
            Jobs = jobs,
            JobBytes = jobBytes,
            WrittenBytes = written,
            BytesPerS = (jobBytes + written) / duration.TotalSeconds,
            TakeBackP50Us = Percentile([.. counts.PageLatencies, .. counts.BufferLatencies], 0.50),
            TakeBackP99Us = Percentile([.. counts.PageLatencies, .. counts.BufferLatencies], 0.99),
            PagesP50Us = Percentile(counts.PageLatencies, 0.50),
            PagesP99Us = Percentile(counts.PageLatencies, 0.99),
            BufferP50Us = Percentile(counts.BufferLatencies, 0.50),
            BufferP99Us = Percentile(counts.BufferLatencies, 0.99),
            AskedPages = counts.AskedPages,
            TakenPages = counts.TakenPages,
            AskedBuffers = counts.AskedBuffers,
            TakenBuffers = counts.TakenBuffers,
            UsedBytes = (long)_m.User.LengthBytes + _options.MessageBytes,
            ReclaimableBytes = reclaimable + (counts.TakenBuffers > 0 ? _options.MessageBytes : 0),
            GpuFaults = _m.Process1.Faults.Count,
            NicFaults = _nicFaultCount,
            Faults = _m.Process1.Faults.Count + _nicFaultCount,
            ProcessorStalls = counts.Stalls,
            QueueStops = eviction.EvictionCount,
            RnrNaks = rnr,
            Reconnects = counts.Reconnects,
            Stalls = counts.Stalls + eviction.EvictionCount + rnr + counts.Reconnects,
            FailedMessages = counts.FailedMessages,
            FailedJobs = counts.FailedJobs,
            FailedReports = counts.FailedReports,
            RefusedSubmissions = counts.Refused,
            RefusedWaits = _m.Host.Checker.Violations.Count(v => v.Kind == Core.Checking.ViolationKind.WaitCycle),
            Steps = _loop.Steps,
        };
    }

    private void AddStations()
    {
        TakeBackCosts costs = _options.Costs;
        foreach ((string name, IEnumerable<Step> steps) in _work.Actors())
        {
            _stations.Add(Station.Of(name, steps, step => (name, step) switch
            {
                ("program", "stall") => costs.WakeUp,
                ("program" or "gpu0 owner", _) => costs.Submission,
                ("gpu0 driver", "a job has ended") => costs.WakeUp,
                ("gpu0 driver" or "reclaim", _) => costs.SpaceStep,
                _ => TimeSpan.FromTicks(1),
            }));
        }

        foreach (GpuDevice gpu in (GpuDevice[])[_m.Gpu0, _m.Gpu1])
        {
            QueueEngine compute = gpu.ComputeEngine;
            CopyEngine copy = gpu.CopyEngine;
            _stations.Add(new Station(compute.Name, () => compute.HasReadyJob, () =>
            {
                compute.TryEnter();
                compute.Step();
                compute.Exit();
                return costs.EngineBlock;
            }));
            _stations.Add(new Station(copy.Name, () => copy.HasReadyJob, () =>
            {
                copy.TryEnter();
                copy.Step();
                copy.Exit();
                return costs.EngineBlock;
            }));
        }

        foreach (RdmaEnd nic in (RdmaEnd[])[_m.Nic, _peer.Nic])
        {
            _stations.Add(new Station(
                nic.Device.Name, () => nic.HasWork, () => costs.Packet * Math.Max(1, nic.Work())));
            _loop.AddAlarm(() => nic.NextDeadline);
        }

        _stations.Add(new Station("faults of the NIC", HasNicFault, () =>
        {
            _nicFaultCount++;
            _m.Nic.Serve(_nicFaults.Dequeue());
            return costs.FaultInterrupt;
        }));
        _stations.Add(Station.Of(
            "faults of gpu1", ServeFaults(),
            step => step == "take a fault" ? costs.FaultInterrupt : costs.SpaceStep));
        GpuEviction eviction = _m.Process1.Eviction;
        _stations.Add(new Station("restore", () => eviction.NextDeadline <= _clock.Now, () =>
        {
            _m.Locked(() => eviction.HandleTimeout(_clock.Now));
            return costs.WakeUp;
        }));
        _loop.AddAlarm(() => eviction.NextDeadline);
        _loop.AddAlarm(() =>
        {
            _sleeps.RemoveAll(s => s <= _clock.Now);
            return _sleeps.Count == 0 ? null : _sleeps.Min();
        });
    }

    private bool HasNicFault()
    {
        while (_m.Nic.TryTakeFault(out MemoryRegion? region))
        {
            _nicFaults.Enqueue(region!);
        }

        return _nicFaults.Count > 0;
    }

    private IEnumerable<Step> ServeFaults()
    {
        GpuFaults faults = _m.Process1.Faults;
        while (true)
        {
            yield return new("take a fault", () => faults.PendingCount > 0);
            GpuFault? fault = null;
            SpaceOperation? operation = _m.Locked(() => faults.TryTake(out fault) ? fault!.Start() : null);
            if (operation is not null)
            {
                foreach (Step step in operation.Drive(_m.Host))
                {
                    yield return step;
                }
            }

            _m.Locked(() => fault!.End(operation));
        }
    }

    private Func<bool> Sleep(TimeSpan duration)
    {
        TimeSpan until = _clock.Now + duration;
        _sleeps.Add(until);
        return () => _clock.Now >= until;
    }

    private TimeSpan Surcharge()
    {
        (long before, _swapped) = (_swapped, Swapped);
        return _options.Costs.SwapPage * (_swapped - before);
    }

    // Devices keep what they have registered and opened, and have nothing to do.
    private long ReclaimAll()
    {
        ReclaimOperation reclaim = _m.Locked(() => _m.Memory.Reclaim(int.MaxValue));
        Station asked = Station.Of("reclaim all", reclaim.Drive(_m.Host), _ => _options.Costs.SpaceStep);
        _stations.Add(asked);
        _loop.Run(() => reclaim.IsCompleted);
        _stations.Remove(asked);
        long left = 0;
        for (ulong page = _m.User.FirstPage; page < _m.User.EndPage; page++)
        {
            left += _m.Space.Table.Peek(page).Frame is null ? 0 : TakeBackMachine.Page;
        }

        return (long)_m.User.LengthBytes - left;
    }

    private void RequireBytes()
    {
        byte[] all = new byte[_options.MessageBytes];
        for (int slot = 0; slot < _options.Slots; slot++)
        {
            AccessOperation load = _m.Locked(() => _m.Space.Read(_m.User.Start + _m.InputOffset(slot), all));
            Station look = Station.Of("look", load.Drive(_m.Host), _ => TimeSpan.Zero);
            _stations.Add(look);
            bool isRead = _loop.Run(() => load.IsCompleted) && load.Errno == Core.Errno.Success;
            _stations.Remove(look);
            int wrong = isRead ? all.AsSpan().IndexOfAnyExcept(_peer.Written[slot]) : 0;
            if (wrong >= 0)
            {
                throw new ViolationException(
                    $"{_m.Strategy.Name}: byte {wrong} of slot {slot} is {all[wrong]} where {_peer.Written[slot]} was "
                    + "written last");
            }
        }
    }

    private static double? Percentile(List<TimeSpan> latencies, double share)
    {
        if (latencies.Count == 0)
        {
            return null;
        }

        TimeSpan[] sorted = [.. latencies.Order()];
        return sorted[Math.Min(sorted.Length - 1, (int)(sorted.Length * share))].TotalMicroseconds;
    }
}
