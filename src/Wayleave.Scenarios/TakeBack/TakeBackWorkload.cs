using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

// peer --WRITE--> landing buffer in gpu0's VRAM --job A--> results (VRAM) --job B, on gpu1--> the process's memory
// peer --WRITE--> the process's memory, input slot -------------------------^
//
// B needs A: a fence of gpu0's driver, which signals it after it has told the program, in the program's own memory, how
// far it is. That store may fault, and a fault may need memory: what the contract of dma_fence forbids, and what nobody
// notices who looks at gpu0's driver alone, or at gpu1's. Meanwhile memory is short: pages of the process are
// reclaimed, the landing buffer has to leave VRAM, the program changes protections.

/// <summary>How much of it there is.</summary>
/// <param name="JobsMax">Pairs of jobs; null for as many as there is time for.</param>
/// <param name="MessagesMax">WRITEs of the peer; null as above.</param>
/// <param name="PressureMax">Times that pages are wanted, and the buffer; null as above.</param>
/// <param name="HasOthers">
/// Once, the program changes the protection of its memory, and another process needs a page.
/// </param>
internal sealed record TakeBackLimits(
    int? JobsMax = null, int? MessagesMax = null, int? PressureMax = null, bool HasOthers = false);

/// <summary>What everybody does, as actors: driven by time, or by the explorer.</summary>
internal sealed class TakeBackWorkload
{
    private readonly TakeBackMachine _m;
    private readonly TakeBackPeer _peer;
    private readonly TakeBackOptions _options;
    private readonly TakeBackLimits _limits;
    private readonly VirtualClock _clock;
    private readonly Func<TimeSpan, Func<bool>> _sleep;
    private readonly Queue<(Fence Job, Fence Report, uint Number)> _reports = [];
    private readonly List<(Fence? Fence, ulong Commands)> _submitted = []; // of the second GPU, not seen to have ended
    private uint _jobs; // pairs submitted
    private ulong _commands; // written into the ring
    private bool _isOver;
    private bool _isAllSubmitted;

    /// <param name="machine">With its strategy.</param>
    /// <param name="peer">Who writes to it.</param>
    /// <param name="options">Sizes.</param>
    /// <param name="limits">How much.</param>
    /// <param name="sleep">Makes a condition that holds after some time.</param>
    public TakeBackWorkload(
        TakeBackMachine machine,
        TakeBackPeer peer,
        TakeBackOptions options,
        TakeBackLimits limits,
        Func<TimeSpan, Func<bool>> sleep)
    {
        (_m, _peer, _options, _limits, _sleep) = (machine, peer, options, limits, sleep);
        _clock = machine.Clock;
    }

    /// <summary>What was found.</summary>
    public TakeBackCounts Counts { get; } = new();

    /// <summary>The actors have finished.</summary>
    public bool HasEnded => Counts.Running == 0;

    /// <summary>Nobody begins anything any more.</summary>
    public void Stop() => _isOver = true;

    /// <summary>Name, steps, and whether a step is one of an operation on an address space.</summary>
    public IReadOnlyList<(string Name, IEnumerable<Step> Steps)> Actors()
    {
        List<(string, IEnumerable<Step>)> actors =
        [
            ("program", Counted(Program())),
            ("gpu0 driver", Counted(Report())),
            ("reclaim", Counted(Reclaim())),
            ("gpu0 owner", Counted(TakeLanding())),
            ("peer", Counted(Write())),
        ];
        if (_limits.HasOthers)
        {
            ChangeOperation protect = _m.Locked(() => _m.Space.Protect(_m.User, SpaceProtection.ReadWrite));
            AccessOperation touch = _m.Locked(() => _m.Other.Write(_m.OtherMemory.Start, new byte[] { 1 }));
            actors.Add(("mprotect", Counted(protect.Drive(_m.Host))));
            actors.Add(("another process", Counted(touch.Drive(_m.Host))));
        }

        return actors;
    }

    private bool IsOver(int done, int? max) => _isOver || done >= (max ?? int.MaxValue);

    private IEnumerable<Step> Counted(IEnumerable<Step> steps)
    {
        Counts.Running++;
        return Run();

        IEnumerable<Step> Run()
        {
            foreach (Step step in steps)
            {
                yield return step;
            }

            Counts.Running--;
        }
    }

    // The program: pairs of jobs, as many under way at once as the options say.
    private IEnumerable<Step> Program()
    {
        while (!IsOver((int)_jobs, _limits.JobsMax))
        {
            yield return new("submit", () => CountUnderWay() < _options.Depth || _isOver);
            if (_isOver)
            {
                break;
            }

            uint handle = _m.LandingHandle;
            SubmitOperation first = _m.Locked(() => SubmitFirst());
            yield return new("the first job is in its queue", () => first.IsCompleted);
            if (first.Error is Errno.ENODEV or Errno.ENOENT)
            {
                Counts.Refused++; // the landing buffer was taken back: there will be another
                yield return new("wait for another buffer", () => _m.LandingHandle != handle || _isOver);
                continue;
            }

            World.Require(Errno.Success, first.Error);
            uint number = ++_jobs;
            Fence report = _m.Locked(() =>
            {
                Fence made = _m.Reports.CreateFence(); // signalled by Report
                World.Require(Errno.Success, made.TryRunAfter([first.Fence!], out _));
                return made;
            });
            _reports.Enqueue((first.Fence!, report, number));
            if (_m.Strategy.StallsBeforeHandOver)
            {
                Counts.Stalls++;
                yield return new("stall", () => report.IsSignaled);
            }

            foreach (Step step in SubmitSecond(report, number))
            {
                yield return step;
            }
        }

        _isAllSubmitted = true;
        yield return new("all jobs have ended", () => CountUnderWay() == 0);
    }

    private SubmitOperation SubmitFirst()
    {
        byte[] ring = new byte[GpuCommand.SizeBytes];
        new GpuCommand
        {
            Opcode = GpuOpcode.Copy,
            AHandle = _m.LandingHandle,
            TargetHandle = _m.ResultHandle,
            Count = (ulong)_options.MessageBytes,
        }.Write(ring);
        return SubmitOperation.Start(_m.Queue0, new GpuSubmission(GpuCommandMode.Parsed, ring));
    }

    private IEnumerable<Step> SubmitSecond(Fence report, uint number)
    {
        int slot = (int)(number % (uint)_options.Slots);
        ulong input = TakeBackMachine.UserVa + _m.InputOffset(slot);
        ulong output = TakeBackMachine.UserVa + _m.OutputOffset(slot);
        ulong bytes = (ulong)_options.MessageBytes;
        GpuCommand[] commands =
        [
            Copy(TakeBackMachine.ResultVa, TakeBackMachine.LocalVa, bytes),
            new()
            {
                Opcode = GpuOpcode.Add,
                A = TakeBackMachine.LocalVa,
                B = input,
                Target = output,
                Count = bytes / 4,
            },
        ];
        if (_m.UserQueue1 is { } user)
        {
            GpuCommand acquire = new() { Opcode = GpuOpcode.Acquire, A = TakeBackMachine.StatusVa, Value = number };
            foreach (GpuCommand command in (GpuCommand[])[acquire, .. commands])
            {
                _m.WriteCommand(_commands++, command);
            }

            yield return "ring the doorbell";
            user.RingDoorbell(_commands);
            _submitted.Add((null, _commands));
            yield break;
        }

        byte[] ring = new byte[commands.Length * GpuCommand.SizeBytes];
        for (int i = 0; i < commands.Length; i++)
        {
            commands[i].Write(ring.AsSpan(i * GpuCommand.SizeBytes));
        }

        yield return "submit the second";
        SubmitOperation second = _m.Locked(() => SubmitOperation.Start(
            _m.Queue1!, new GpuSubmission(GpuCommandMode.Paged, ring, [report])));
        yield return new("the second job is in its queue", () => second.IsCompleted);
        if (second.Error == Errno.Success)
        {
            _submitted.Add((second.Fence, 0));
        }
        else
        {
            Counts.Refused++;
        }
    }

    private static GpuCommand Copy(ulong from, ulong to, ulong bytes) =>
        new() { Opcode = GpuOpcode.Copy, A = from, Target = to, Count = bytes };

    private int CountUnderWay()
    {
        for (int i = _submitted.Count - 1; i >= 0; i--)
        {
            (Fence? fence, ulong commands) = _submitted[i];
            bool hasEnded = fence?.HasEnded ?? (_m.UserQueue1!.Done >= commands || _m.UserQueue1.IsLost);
            if (hasEnded)
            {
                Counts.Jobs += fence is null ? (_m.UserQueue1!.IsLost ? 0 : 1) : fence.Error == Errno.Success ? 1 : 0;
                Counts.FailedJobs += fence is { Error: not Errno.Success } || _m.UserQueue1 is { IsLost: true } ? 1 : 0;
                _submitted.RemoveAt(i);
            }
        }

        return _submitted.Count;
    }

    // The driver of the first GPU, woken when a job has ended.
    private IEnumerable<Step> Report()
    {
        while (true)
        {
            yield return new("a job has ended", () => _reports.TryPeek(out (Fence Job, Fence, uint) next)
                ? next.Job.HasEnded
                : _isAllSubmitted);
            if (!_reports.TryDequeue(out (Fence Job, Fence Report, uint Number) report))
            {
                yield break;
            }

            byte[] number = BitConverter.GetBytes(report.Number);
            AccessOperation tell = _m.Locked(() => _m.Space.Write(_m.Status.Start, number, _m.Completion));
            foreach (Step step in tell.Drive(_m.Host))
            {
                yield return step;
            }

            Counts.FailedReports += tell.Errno == Errno.Success ? 0 : 1;
            yield return "signal";
            _m.Locked(() => report.Report.Signal(report.Job.Error));
            _m.UserQueue1?.Wake(); // what its Acquire looks at has changed
            _m.Gpu1.ComputeEngine.HandleRestored();
        }
    }

    // Memory is short.
    private IEnumerable<Step> Reclaim()
    {
        for (int done = 0; !IsOver(done, _limits.PressureMax); done++)
        {
            yield return new("memory is short", _sleep(_options.PressurePeriod));
            if (_isOver)
            {
                yield break;
            }

            TimeSpan start = _clock.Now;
            ReclaimOperation reclaim = _m.Locked(() => _m.Memory.Reclaim(_options.PressurePages));
            foreach (Step step in reclaim.Drive(_m.Host))
            {
                yield return step;
            }

            Counts.AskedPages += _options.PressurePages;
            Counts.TakenPages += reclaim.ReclaimedCount;
            if (reclaim.ReclaimedCount > 0)
            {
                Counts.PageLatencies.Add(_clock.Now - start);
            }
        }
    }

    // VRAM is short: the landing buffer goes, and comes back.
    private IEnumerable<Step> TakeLanding()
    {
        for (int done = 0; !IsOver(done, _limits.PressureMax); done++)
        {
            yield return new("VRAM is short", _sleep(_options.PressurePeriod * 2));
            if (_isOver)
            {
                yield break;
            }

            TimeSpan start = _clock.Now;
            Counts.AskedBuffers++;
            foreach (Step step in _m.Strategy.Revokes ? Revoke(start) : Move(start))
            {
                yield return step;
            }
        }
    }

    private IEnumerable<Step> Move(TimeSpan start)
    {
        MoveOperation evict = _m.Locked(() => _m.Gpu0.Evict(_m.Landing));
        yield return new("evicted", () => evict.IsCompleted);
        if (evict.Error != Errno.Success)
        {
            yield break; // it is pinned
        }

        Counts.TakenBuffers++;
        Counts.BufferLatencies.Add(_clock.Now - start);
        foreach (Step step in RegisterIfDead())
        {
            yield return step;
        }

        MoveOperation restore = _m.Locked(() => _m.Gpu0.Restore(_m.Landing));
        yield return new("restored", () => restore.IsCompleted);
        foreach (Step step in RegisterIfDead())
        {
            yield return step;
        }
    }

    private IEnumerable<Step> Revoke(TimeSpan start)
    {
        RevokeOperation revoke = _m.Locked(() => _m.Gpu0.Free(_m.Landing, new RevokePolicy()));
        yield return new("proof", () => revoke.IsCompleted);
        if (revoke.Proof!.Grade != RetirementGrade.Retired)
        {
            throw new ViolationException($"the landing buffer came back with grade {revoke.Proof.Grade}");
        }

        Counts.TakenBuffers++;
        Counts.BufferLatencies.Add(_clock.Now - start);
        do
        {
            yield return new("another buffer", () => _m.HasRoom);
        }
        while (!_m.TryReplaceLanding());
        foreach (Step step in RegisterIfDead())
        {
            yield return step;
        }
    }

    private IEnumerable<Step> RegisterIfDead()
    {
        if (_m.LandingRegion.State == MemoryRegionState.Dead)
        {
            Counts.Registrations++;
            do
            {
                yield return new("register anew", () => _m.CanRegister);
            }
            while (!_m.TryRegisterAnew());
        }
    }

    // The peer: into the process's memory and into the landing buffer in turns.
    private IEnumerable<Step> Write()
    {
        int posted = 0;
        bool mustConnect = false;
        while (!IsOver(posted, _limits.MessagesMax) || _peer.UnderWay > 0)
        {
            // The program tells the peer a new key before it may write there again.
            bool isTold() => posted % 2 == 0 || _m.LandingRegion.State != MemoryRegionState.Dead;
            bool mayPost() => !mustConnect && _peer.UnderWay < _options.Depth
                && !IsOver(posted, _limits.MessagesMax) && isTold();
            bool isIdle() => _peer.UnderWay == 0 && (mustConnect || IsOver(posted, _limits.MessagesMax));
            yield return new("post", () => _peer.Nic.HasCompletion || mayPost() || isIdle());
            while (_peer.Nic.HasCompletion)
            {
                mustConnect |= !_peer.TakeCompletion(Counts);
            }

            if (mustConnect && _peer.UnderWay == 0)
            {
                Counts.Reconnects++;
                yield return new("connect", _sleep(_options.Costs.Reconnect));
                RdmaEnd.Reconnect(_peer.Nic, _m.Nic);
                mustConnect = false;
                continue;
            }

            if (mayPost())
            {
                _peer.Post(_m, posted++);
            }
        }
    }
}
