using System.Text.Json;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary>Topologies as documents. Those of a running host are described under its lock.</summary>
public static class TopologyReports
{
    public static TopologyDocument Describe(TopologyView view)
    {
        ArgumentNullException.ThrowIfNull(view);
        BootProcessor processor = view.Topology.Processor;
        return new TopologyDocument
        {
            Source = view.Source,
            Processor = new ProcessorDocument(processor.Vendor, processor.Family, processor.ForwardsPeerRequests),
            HostBridges =
            [
                .. view.Topology.HostBridges.OrderBy(b => b.Domain).ThenBy(b => b.RootBus)
                    .Select(b => Describe(view, b)),
            ],
            Notes = view.Notes,
        };
    }

    private static HostBridgeDocument Describe(TopologyView view, HostBridge bridge) => new()
    {
        Name = bridge.Name,
        Bus = $"{bridge.Domain:x4}:{bridge.RootBus:x2}",
        Iommu = bridge.Iommu,
        NumaNode = bridge.NumaNode,
        BusOffset = bridge.BusOffset,
        Identity = bridge.Identity is { } identity && identity.Id != default ? identity.Id.ToString() : null,
        Listing = ListingOf(bridge),
        ForwardsPeerRequests = bridge.ForwardsPeerRequests,
        LosesPeerRequests = bridge.LosesPeerRequests,
        Functions = [.. bridge.Below.Select(f => Describe(view, f))],
    };

    private static HostBridgeListing ListingOf(HostBridge bridge) =>
        bridge.Identity is not PciFunction identity ? HostBridgeListing.Unknown
        : HostBridgeAllowList.Contains(identity.Id, isSameBridge: false) ? HostBridgeListing.AnyPair
        : HostBridgeAllowList.IsSameBridgeOnly(identity.Id) ? HostBridgeListing.SameBridge
        : HostBridgeListing.NotListed;

    private static FunctionDocument Describe(TopologyView view, PciFunction function)
    {
        FunctionFacts facts = view.FactsOf(function);
        PciBridge? bridge = function as PciBridge;
        return new FunctionDocument
        {
            Address = function.Address.ToString(),
            Name = function.Name,
            Kind = KindOf(function),
            Type = facts.Type,
            Id = function.Id == default ? null : function.Id.ToString(),
            Driver = facts.Driver,
            Acs = function.Acs is AcsControl acs ? [.. WordsOf(acs)] : null,
            AcsKnown = facts.IsAcsKnown,
            IommuGroup = facts.IommuGroup,
            IommuType = facts.IommuType,
            Bars =
            [
                .. function.Bars.OfType<PciBar>().Select(b => new BarDocument(
                    b.Index, b.Kind, b.Range.Start.Value, b.Range.LengthBytes, b.IsPrefetchable)),
            ],
            SecondaryBus = bridge is { Below.Count: > 0 } ? bridge.Below[0].Address.Bus : null,
            SubordinateBus = bridge is { Below.Count: > 0 } ? LastBus(bridge) : null,
            Functions = bridge is null ? null : [.. bridge.Below.Select(f => Describe(view, f))],
        };
    }

    private static FunctionKind KindOf(PciFunction function) => (function as PciBridge)?.Kind switch
    {
        null => ReferenceEquals(function.Root?.Identity, function) ? FunctionKind.HostBridge : FunctionKind.Endpoint,
        PciBridgeKind.RootPort => FunctionKind.RootPort,
        PciBridgeKind.SwitchUpstream => FunctionKind.SwitchUpstream,
        PciBridgeKind.SwitchDownstream => FunctionKind.SwitchDownstream,
        _ => FunctionKind.ConventionalBridge,
    };

    private static int LastBus(PciBridge bridge) =>
        bridge.Below.Max(f => f is PciBridge { Below.Count: > 0 } below ? LastBus(below) : f.Address.Bus);

    private static IEnumerable<string> WordsOf(AcsControl control) => Enum.GetValues<AcsControl>()
        .Where(c => int.IsPow2((int)c) && control.HasFlag(c))
        .Select(c => JsonNamingPolicy.SnakeCaseLower.ConvertName(c.ToString()));
}
