using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

/// <summary>Two devices, a page of a program, and a reclaimer that wants the page: see FenceInNotifier.cs.</summary>
internal sealed class NotifierModel
{
    private const byte Content = 0x5A;
    private const byte Others = 0xEE; // what the page holds once somebody else has it
    private const int PageBytes = 4096;

    private readonly NotifierDesign _design;
    private readonly Story _story;
    private readonly HostContext _host;
    private readonly Reservation _lock;
    private readonly Activity _completion;
    private readonly Activity _notifier;
    private readonly Timeline _timelineA;
    private readonly Timeline _timelineB;
    private readonly Fence _fenceA;
    private Fence? _fenceB; // none before the hand-over, and none at all for a job that may fault
    private Translation? _mapping; // B's view of the page
    private bool _isInside;
    private bool _isDone; // B's job
    private bool _isInvalidating;
    private byte _page = Content;
    private int _inFlight = 1; // A's job is under way from the start
    private int _inFlightMost = 1;
    private int _faults;
    private int _stalls;
    private int _reclaimed;
    private int _refusals;

    public NotifierModel(Choices choices, NotifierDesign design)
    {
        _design = design;
        _story = new Story(choices);
        CheckerOptions checks = design.HasChecker ? new CheckerOptions() : CheckerOptions.Off;
        _host = new HostContext(new VirtualClock(), choices.IsTold ? _story : null, checks);
        using (_host.Enter())
        {
            _lock = new Reservation(_host, "what the reclaimer holds");
            _completion = new Activity(_host, ActivityKind.Engine, "A completion");
            _notifier = new Activity(_host, ActivityKind.Notifier, "B", mayWaitForFences: true);
            _timelineA = new Timeline(_host, "A", _completion);
            _timelineB = new Timeline(_host, "B");
            _fenceA = _timelineA.CreateFence(); // signalled by the actor "device A"
            Map();
            if (!design.StallsBeforeHandOver)
            {
                HandOver();
            }
        }
    }

    /// <summary>What a design costs in the order that costs least, and most.</summary>
    public static IReadOnlyList<ScenarioCost> Measure(NotifierDesign design)
    {
        SortedDictionary<string, (long Least, long Most)> costs = new(StringComparer.Ordinal);
        Explorer.Exhaustive(c =>
        {
            NotifierModel model = new(c, design);
            Scenario scenario = model.ToScenario();
            return scenario with
            {
                AtEnd = () =>
                {
                    scenario.AtEnd!();
                    foreach ((string what, long count) in model.Counts())
                    {
                        (long least, long most) = costs.GetValueOrDefault(what, (count, count));
                        costs[what] = (Math.Min(least, count), Math.Max(most, count));
                    }
                },
            };
        });
        return [.. costs.Select(c => new ScenarioCost(c.Key, c.Value.Least, c.Value.Most))];
    }

    public Scenario ToScenario()
    {
        _story.Take();
        return new Scenario(
            [
                new Actor("device A", Complete()), new Actor("device B", Run()), new Actor("reclaim", Reclaim()),
            ],
            Invariant: () => { },
            Fingerprint,
            AtEnd: CheckEnd,
            Narrate: _story.Take);
    }

    private IEnumerable<Step> Complete()
    {
        yield return "end the job";
        if (!_design.CompletionTakesLock)
        {
            SignalA(ticket: null);
            yield break;
        }

        AcquireTicket ticket;
        LockOutcome outcome;
        using (_host.Enter())
        {
            ticket = AcquireTicket.CreatePlain(_host, "A completion", _completion);
            outcome = _lock.TryLock(ticket);
        }

        if (outcome.Wait is { } wait)
        {
            _story.Say("the lock is held");
            yield return new("take the lock", () => wait.IsCompleted);
            outcome = new LockOutcome(wait.Result);
        }

        bool isRefused = outcome.Kind == LockOutcomeKind.Deadlock;
        if (isRefused)
        {
            NoteRefusal();
        }

        yield return isRefused ? "signal without the lock" : "signal";
        SignalA(isRefused ? null : ticket);
    }

    private IEnumerable<Step> Run()
    {
        yield return new("start after A's job", () => _fenceA.IsSignaled);
        if (_design.StallsBeforeHandOver)
        {
            // The processor was waiting; it looks at the page once more before it hands over.
            _stalls++;
            yield return new("hand over", () => !_isInvalidating);
            using (_host.Enter())
            {
                FaultIn();
                HandOver();
            }
        }

        while (true)
        {
            yield return "access the page";
            if (_mapping is { } mapping && mapping.Gate.TryEnter())
            {
                _isInside = true;
                yield return "read it";
                if (_page != Content)
                {
                    throw new ViolationException("device B reads a page that belongs to somebody else");
                }

                _isInside = false;
                mapping.Gate.Exit();
                break;
            }

            _faults++;
            yield return new("fault: wait for the notifier, get the page back", () => !_isInvalidating);
            using (_host.Enter())
            {
                FaultIn();
            }
        }

        yield return "end the job";
        using (_host.Enter())
        {
            _isDone = true;
            _inFlight--;
            _fenceB?.Signal();
        }
    }

    private IEnumerable<Step> Reclaim()
    {
        yield return "take the lock";
        AcquireTicket ticket;
        LockWait? wait;
        using (_host.Enter())
        {
            ticket = AcquireTicket.CreatePlain(_host, "reclaim", _notifier);
            wait = _lock.TryLock(ticket).Wait;
        }

        yield return new("take the page", () => wait is null or { IsCompleted: true });
        bool mayTake = !_design.PinsEverything;
        if (mayTake && _design.HasRestartableFaults)
        {
            InFlightGate? gate = BeginInvalidate();
            yield return new("the access has ended", () => gate is null || gate.IsDrained || !_design.DrainsMapping);
        }
        else if (mayTake)
        {
            _isInvalidating = true;
            FenceWait? job = null;
            using (_host.Enter())
            {
                job = _fenceB is { } fence
                    ? FenceWait.Start(_host, _notifier, fence, FenceWait.NoTimeout)
                    : null;
            }

            yield return new("the notifier waits for B's fence", () => job is null or { IsCompleted: true });
            if (job is { State: FenceWaitState.Deadlock })
            {
                NoteRefusal();
                mayTake = false;
            }
            else
            {
                BeginInvalidate();
            }
        }

        yield return mayTake ? "give the page to somebody else" : "leave the page where it is";
        using (_host.Enter())
        {
            if (mayTake)
            {
                _page = Others;
                _reclaimed += PageBytes;
            }

            _isInvalidating = false;
            _lock.Unlock(ticket);
        }
    }

    private InFlightGate? BeginInvalidate()
    {
        _isInvalidating = true;
        InFlightGate? gate = _mapping?.Gate;
        using (_host.Enter())
        {
            gate?.Close(out _);
            _mapping = null;
        }

        return gate;
    }

    private void SignalA(AcquireTicket? ticket)
    {
        using (_host.Enter())
        {
            _inFlight--;
            _fenceA.Signal();
            if (ticket is not null)
            {
                _lock.Unlock(ticket);
            }
        }
    }

    private void HandOver()
    {
        _inFlight++;
        _inFlightMost = Math.Max(_inFlightMost, _inFlight);
        if (!_design.HasRestartableFaults)
        {
            _fenceB = _timelineB.CreateFence(); // signalled by the actor "device B"
            World.Require(Errno.Success, _fenceB.TryRunAfter([_fenceA], out _));
        }
    }

    private void FaultIn()
    {
        if (_mapping is null)
        {
            _page = Content; // another page, filled from swap
            Map();
        }
    }

    private void Map() => _mapping = new Translation(
        new DmaAddressList([new DeviceRange(new DeviceAddress(PageBytes), PageBytes)]), new InFlightGate());

    private void NoteRefusal()
    {
        _refusals++;
        using (_host.Enter())
        {
            Violation? violation = _host.Checker.Violations.Count > 0 ? _host.Checker.Violations[^1] : null;
            if (violation is not { Kind: ViolationKind.WaitCycle })
            {
                throw new ViolationException("a wait was refused, and nobody can say why");
            }

            _story.Say($"refused: {violation.Message}");
        }
    }

    private void CheckEnd()
    {
        if (!_isDone || !_fenceA.IsSignaled || _fenceB is { IsSignaled: false })
        {
            throw new ViolationException("a job or its fence has not ended");
        }
    }

    private IEnumerable<(string What, long Count)> Counts() =>
    [
        ("jobs in flight at once", _inFlightMost),
        ("recoverable faults", _faults),
        ("stalls of the processor", _stalls),
        ("bytes that reclaim gets", _reclaimed),
        ("bytes pinned", _design.PinsEverything ? PageBytes : 0),
        ("waits refused", _refusals),
    ];

    private ulong Fingerprint()
    {
        StateHash hash = new();
        hash.Add((_fenceA.IsSignaled ? 1UL : 0) + (_fenceB is null ? 2UL : _fenceB.IsSignaled ? 4UL : 8UL));
        hash.Add(_lock.Owner?.Stamp ?? 0);
        hash.Add(_mapping is null ? 0UL : _mapping.Gate.IsClosed ? 1UL : 2UL);
        hash.Add((_isInside ? 1UL : 0) + (_isDone ? 2UL : 0) + (_isInvalidating ? 4UL : 0) + ((ulong)_page << 8));
        hash.Add((ulong)(_inFlight + (_inFlightMost * 8) + (_faults * 64) + (_stalls * 4096)));
        hash.Add((ulong)(_reclaimed + _refusals));
        return hash.Value;
    }
}
