using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// The smallest owner, with no device, and the users of its buffer: for scenarios about what an exporter itself may get
/// wrong.
/// </summary>
internal sealed class Lending : SimulatedOwner
{
    private Lending(Story story, StorageKind storage, bool isTold)
        : base(storage, isTold ? story : null) => Story = story;

    public Story Story { get; }

    /// <summary>A new one for a run.</summary>
    public static Lending Of(Choices choices, StorageKind storage) => new(new Story(choices), storage, choices.IsTold);

    /// <summary>A device with an importer of its own.</summary>
    public LendingUser AddUser(string name, ImporterKind kind, int offset, ImporterFaults? faults = null)
    {
        using (Host.Enter())
        {
            return new LendingUser(this, new SimulatedImporter(Host, Fabric, Shared, name, kind, faults), offset);
        }
    }

    /// <summary>A scenario of these actors; what goes wrong is found by the steps and at the end.</summary>
    public Scenario ToScenario(
        IReadOnlyList<LendingUser> users,
        Action? atEnd,
        params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        List<Actor> all = [];
        foreach ((string name, IEnumerable<Step> steps) in actors)
        {
            all.Add(new Actor(name, steps));
        }

        Story.Take();
        return new Scenario(
            all,
            Invariant: () => Contracts.Require(Host, ViolationKind.LateUnmap),
            Fingerprint: () =>
            {
                StateHash hash = new();
                AddTo(ref hash);
                foreach (LendingUser user in users)
                {
                    user.AddTo(ref hash);
                }

                return hash.Value;
            },
            AtEnd: atEnd,
            Narrate: Story.Take);
    }
}
