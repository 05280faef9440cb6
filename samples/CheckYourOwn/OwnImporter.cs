using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Simulation;

internal sealed class OwnImporter(SimulatedOwner owner, bool waits) : IRevocableImporter
{
    private InFlightGate _gate = new();
    private Fence? _drain;

    public string Name => "own";
    public ImporterKind Kind => ImporterKind.Dynamic;
    public bool AllowPeerToPeer => true;

    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        if (_gate.Close(out _) || !waits)
        {
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }
        return InvalidateOutcome.Draining(_drain = new Timeline(owner.Host, Name).CreateFence());
    }

    public IEnumerable<Step> Use(Attachment attachment)
    {
        DmaAddressList addresses = owner.Map(attachment);
        Action end = () => owner.Locked(() => { attachment.UnmapInvalidated(); _drain!.Signal(); });
        _gate = new InFlightGate(drained: waits ? end : null);
        yield return "enter";
        if (_gate.TryEnter())
        {
            yield return "write"; // what follows is one step: between two, anybody else may run
            owner.RequireLent(Name, addresses.Entries[0].Start);
            yield return "leave";
            _gate.Exit();
        }
    }

    public static Scenario Build(bool waits)
    {
        SimulatedOwner owner = new(StorageKind.Movable);
        OwnImporter own = new(owner, waits);
        return new([new("own", own.Use(owner.Attach(own))), new("owner", owner.TakeBack())], Invariant: () => { });
    }
}
