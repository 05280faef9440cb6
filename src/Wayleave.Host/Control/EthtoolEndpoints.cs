using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Ethernet;

namespace Wayleave.Host.Control;

// GET    /v1/ethernets/NIC                   NicStateDocument
// POST   /v1/ethernets/NIC/ethtool           EthtoolRequestDocument -> EthtoolAnswerDocument

/// <summary>How Ethernet NICs are set up, for whom ethtool is at home.</summary>
internal sealed class EthtoolEndpoints(WayleaveHost host)
{
    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapGet("/v1/ethernets/{nic}", GetAsync);
        routes.MapPost("/v1/ethernets/{nic}/ethtool", ChangeAsync);
    }

    private Task GetAsync(HttpContext context)
    {
        EthernetHandle nic = NetEndpoints.FindNic(host, context);
        EthernetDocument described = EthernetReports.Describe(nic);
        NicStateDocument state = nic.Nic.Driver.WithToken(() => Describe(nic, described));
        return ControlRequest.WriteAsync(context, state, Json.NicStateDocument);
    }

    private async Task ChangeAsync(HttpContext context)
    {
        EthernetHandle nic = NetEndpoints.FindNic(host, context);
        EthtoolRequestDocument request = await ControlRequest
            .ReadAsync(context, Json.EthtoolRequestDocument).ConfigureAwait(false);
        EthtoolCommand command = EthtoolCommand.TryParse(request.Option, request.Words, out string problem)
            ?? throw new WayleaveException(Errno.EINVAL, $"{request.Option} of {nic.Name}", problem);
        EthtoolAnswerDocument answer = new() { Nic = nic.Name, Message = EthtoolRunner.Run(nic, command) };
        await ControlRequest.WriteAsync(context, answer, Json.EthtoolAnswerDocument).ConfigureAwait(false);
    }

    private NicStateDocument Describe(EthernetHandle nic, EthernetDocument described)
    {
        NicDevice device = nic.Nic.Device;
        FlowSteering steering = device.Port.Steering;
        return new NicStateDocument
        {
            Host = host.Config.Name,
            Nic = described,
            Channels = new NicChannelsDocument
            {
                RxMax = device.Options.ChannelsMax,
                Rx = device.Port.Queues.Count,
            },
            Ring = new NicRingDocument
            {
                RxMax = device.Options.RingEntriesMax,
                Rx = device.Port.Queues[0].RingEntries,
                TcpDataSplit = EthernetReports.ToWord(device.Split.Mode),
                HdsThreshBytes = device.Split.ThresholdBytes,
                HdsThreshBytesMax = ushort.MaxValue,
            },
            Rss = [.. steering.Contexts.Select(Describe)],
            Ntuple = new NicRulesDocument
            {
                Enabled = steering.HasNtuple,
                Locations = steering.Rules.Locations,
                Rules = [.. steering.Rules.Rules.Select(Describe)],
            },
        };
    }

    private static NicRssDocument Describe(RssContext context) => new()
    {
        Context = context.Id,
        Table = context.Table.ToArray(),
        Key = string.Join(':', context.Key.Bytes.ToArray().Select(b => $"{b:x2}")),
        Function = "toeplitz",
        Transform = EthernetReports.ToWord(context.Transform),
    };

    private static NicRuleDocument Describe(FlowRule rule)
    {
        bool hasAddresses = rule.Type != FlowType.Ether;
        bool hasPorts = rule.Type >= FlowType.TcpIPv4;
        return new NicRuleDocument
        {
            Location = rule.Location,
            FlowType = rule.Type switch
            {
                FlowType.IPv4 => "ip4",
                FlowType.IPv6 => "ip6",
                FlowType.TcpIPv4 => "tcp4",
                FlowType.TcpIPv6 => "tcp6",
                FlowType.UdpIPv4 => "udp4",
                FlowType.UdpIPv6 => "udp6",
                _ => "ether",
            },
            SrcIp = hasAddresses ? Text(rule, rule.Source) : null,
            SrcIpMask = hasAddresses ? Ignored(rule, rule.SourceMask) : null,
            DstIp = hasAddresses ? Text(rule, rule.Destination) : null,
            DstIpMask = hasAddresses ? Ignored(rule, rule.DestinationMask) : null,
            SrcPort = hasPorts ? rule.SourcePort : null,
            SrcPortMask = hasPorts ? (ushort)~rule.SourcePortMask : null,
            DstPort = hasPorts ? rule.DestinationPort : null,
            DstPortMask = hasPorts ? (ushort)~rule.DestinationPortMask : null,
            DstMac = rule.DestinationMac?.ToString(),
            Vlan = rule.Vlan,
            Queue = rule.RingCookie == FlowRule.Drop ? null : (int)rule.RingCookie,
            Context = rule.RssContext == 0 ? null : rule.RssContext,
        };
    }

    private static bool IsIPv4(FlowRule rule) => rule.Type is FlowType.IPv4 or FlowType.TcpIPv4 or FlowType.UdpIPv4;

    private static string Text(FlowRule rule, IpAddress address) =>
        (IsIPv4(rule) ? IpAddress.FromIPv4(address.IPv4) : address).ToString();

    private static string Ignored(FlowRule rule, IpAddress mask) =>
        (IsIPv4(rule) ? IpAddress.FromIPv4(~mask.IPv4) : new IpAddress(~mask.High, ~mask.Low)).ToString();
}
