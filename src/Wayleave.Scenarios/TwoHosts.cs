using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// Two hosts whose RDMA devices are connected: one owns memory, the other uses it over the wire. Each packet is a step.
/// </summary>
internal sealed class TwoHosts
{
    /// <param name="choices">Of the run.</param>
    /// <param name="bufferBytes">A message is as long; MTU 256.</param>
    /// <param name="options">Of the owner's GPU.</param>
    /// <param name="defences">Of the owner's RDMA device.</param>
    public TwoHosts(
        Choices choices, int bufferBytes, GpuOptions? options = null, ResponderDefences? defences = null)
    {
        Clock = new VirtualClock();
        User = new World(choices, bufferBytes: bufferBytes, clock: Clock);
        Owner = new World(choices, options, bufferBytes, Clock);
        UserNode = new RdmaNode(User, 0x0A4D0001, seed: 1);
        OwnerNode = new RdmaNode(Owner, 0x0A4D0002, seed: 2, defences);
        RdmaNode.Connect(UserNode, OwnerNode);
    }

    public VirtualClock Clock { get; }

    public World User { get; }

    public World Owner { get; }

    public RdmaNode UserNode { get; }

    public RdmaNode OwnerNode { get; }

    /// <summary>A scenario of these actors, the two devices, the owner's copy engine, and time.</summary>
    public Scenario ToScenario(params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        Service[] services = [UserNode.Service, OwnerNode.Service, RdmaNode.Clock(Clock, Owner, UserNode, OwnerNode)];
        Scenario scenario = Owner.ToScenario(services, actors);
        User.Story.Take();
        return scenario with
        {
            Invariant = () =>
            {
                scenario.Invariant();
                Contracts.Require(User.Host);
            },
            Fingerprint = Fingerprint,
            Narrate = () => Story.Join(Owner.Story, User.Story),
        };
    }

    private ulong Fingerprint()
    {
        StateHash hash = new();
        Owner.AddTo(ref hash);
        User.AddTo(ref hash);
        OwnerNode.AddTo(ref hash);
        UserNode.AddTo(ref hash);
        return hash.Value;
    }
}
