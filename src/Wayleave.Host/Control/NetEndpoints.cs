using System.Globalization;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

// POST   /v1/ethernets/NIC/receives          ReceiveDocument -> a stream of NetEventDocument
// POST   /v1/ethernets/NIC/sends             SendDocument -> a stream of NetEventDocument

/// <summary>What the Ethernet NICs of a host receive and send for a client, for as long as its stream lives.</summary>
internal sealed class NetEndpoints(WayleaveHost host, ControlListenerOptions options, CancellationToken stopping)
{
    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapPost("/v1/ethernets/{nic}/receives", ReceiveAsync);
        routes.MapPost("/v1/ethernets/{nic}/sends", SendAsync);
    }

    /// <summary>The NIC of the path.</summary>
    /// <exception cref="WayleaveException">ENODEV: there is none of that name.</exception>
    internal static EthernetHandle FindNic(WayleaveHost host, HttpContext context)
    {
        string name = (string)context.Request.RouteValues["nic"]!;
        EthernetHandle[] nics = [.. host.Ethernets.Where(e => e.Presence.IsPresent)];
        return nics.FirstOrDefault(n => n.Name == name)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                $"find NIC {name}",
                "the host has no such Ethernet NIC",
                nics.Length == 0
                    ? "give the host one: \"ethernets\" in its configuration"
                    : $"it has {string.Join(", ", nics.Select(n => n.Name))}");
    }

    // A software NIC is known by its own name space; one of the kernel's only receives.
    private LinuxNicHandle? FindLinuxNic(HttpContext context) =>
        host.LinuxNics.FirstOrDefault(n => n.Name == (string)context.Request.RouteValues["nic"]!);

    private async Task ReceiveAsync(HttpContext context)
    {
        NetNic nic = (NetNic?)FindLinuxNic(context) ?? FindNic(host, context);
        ReceiveDocument receive = await ControlRequest
            .ReadAsync(context, Json.ReceiveDocument).ConfigureAwait(false);
        string operation = $"receive by {nic.Name}";
        if (receive.Http && receive.Name is not null)
        {
            throw new WayleaveException(Errno.EINVAL, operation, "each HTTP request names its own object");
        }

        if (receive.Kind is not (null or ImporterKind.Static or ImporterKind.PinnedRevocable))
        {
            throw new WayleaveException(Errno.EINVAL, operation, "kind is neither static nor pinned_revocable");
        }

        if (receive.StallTimeoutMs is { } stall)
        {
            HoldEndpoints.CheckStallTimeout(operation, stall);
        }

        using CancellationTokenSource over = UntilOver(context);
        await using NetReceive reception = await NetReceive
            .OpenAsync(host, nic, ToRequest(operation, receive), over.Token).ConfigureAwait(false);
        using NetFeed feed = new(host, options, new EventStream(context.Response));
        NetEventDocument first = feed.NewLine(NetEventKind.Listening);
        await feed.WriteAsync(first with { Listening = Describe(nic, receive, reception) }).ConfigureAwait(false);
        await feed.RunAsync(
            async cancellation =>
            {
                await reception.RunAsync(
                    stream => feed.WriteAsync(
                        feed.NewLine(NetEventKind.Received) with { Received = ReceivedDocument.From(stream) }),
                    refused => feed.WriteAsync(feed.NewLine(NetEventKind.Refused) with
                    {
                        Refused = new RefusedDocument
                        {
                            Peer = refused.Peer,
                            Status = refused.Status,
                            Reason = refused.Reason,
                        },
                    }),
                    cancellation).ConfigureAwait(false);
                return feed.NewLine(NetEventKind.Done);
            },
            () => reception.Bytes,
            over.Token).ConfigureAwait(false);
    }

    private async Task SendAsync(HttpContext context)
    {
        EthernetHandle nic = FindNic(host, context);
        SendDocument send = await ControlRequest.ReadAsync(context, Json.SendDocument).ConfigureAwait(false);
        string operation = $"send to {send.Address} port {send.Port} by {nic.Name}";
        IpAddress address = ParseAddress(operation, send.Address);
        ushort port = ParsePort(operation, send.Port);
        using CancellationTokenSource over = UntilOver(context);
        (DeviceObject o, ulong staged) = await FindOrLoadAsync(context, operation, send, over.Token)
            .ConfigureAwait(false);
        await using NetSend sending = await OpenAsync(nic, o, isTemporary: send.Path is not null).ConfigureAwait(false);
        using NetFeed feed = new(host, options, new EventStream(context.Response));
        await feed.WriteAsync(feed.NewLine(NetEventKind.Connecting)).ConfigureAwait(false);
        await feed.RunAsync(
            async cancellation =>
            {
                SentContent sent = await sending.RunAsync(address, port, cancellation).ConfigureAwait(false);
                return feed.NewLine(NetEventKind.Done) with
                {
                    Sent = new SentDocument
                    {
                        Source = send.Path ?? o.ToString(),
                        Peer = string.Create(CultureInfo.InvariantCulture, $"{address} port {port}"),
                        Bytes = sent.Bytes,
                        FrameBytes = sent.FrameBytes,
                        ConnectUs = (long)sent.Connecting.TotalMicroseconds,
                        ElapsedUs = (long)sent.Elapsed.TotalMicroseconds,
                        BytesPerS = (long)(sent.Bytes / Math.Max(sent.Elapsed.TotalSeconds, 1e-6)),
                        StagedBytes = staged,
                        Sha256 = sent.Sha256,
                    },
                };
            },
            () => sending.FrameBytes,
            over.Token).ConfigureAwait(false);
    }

    private async Task<(DeviceObject Object, ulong StagedBytes)> FindOrLoadAsync(
        HttpContext context, string operation, SendDocument send, CancellationToken cancellation)
    {
        if (send is { Name: { } name, Path: null })
        {
            return (host.Objects.Find(send.Device, name) ?? throw ControlRequest.NoSuchObject(send.Device, name), 0);
        }

        if (send is not { Name: null, Path: { } path })
        {
            throw new WayleaveException(Errno.EINVAL, operation, "name either an object or a file");
        }

        DriveEndpoints.Check(context, $"send {path}", path);
        NvmeHandle drive = host.Nvmes.FirstOrDefault(n => n.Presence.IsPresent)
            ?? throw new WayleaveException(
                Errno.ENODEV, $"send {path}", "the host has no drive to read it by", "give it one, or send an object");
        string temporary;
        using (host.Context.Enter())
        {
            temporary = string.Create(CultureInfo.InvariantCulture, $"send-{host.Context.AllocateId()}");
        }

        (DeviceObject made, DriveCopyResult result) = await new DriveCopy(host, drive)
            .LoadAsync(path, send.Device, temporary, deniesStaging: false, cancellation).ConfigureAwait(false);
        return (made, result.StagingBytes);
    }

    private async Task<NetSend> OpenAsync(EthernetHandle nic, DeviceObject o, bool isTemporary)
    {
        try
        {
            return new NetSend(host, nic, o, isTemporary);
        }
        catch (WayleaveException) when (isTemporary)
        {
            await host.Objects.RevokeAsync(o, new RevokePolicy { Reason = "it cannot be sent" }).ConfigureAwait(false);
            throw;
        }
    }

    private static ReceiveRequest ToRequest(string operation, ReceiveDocument receive) => new()
    {
        Queue = receive.Queue,
        Device = receive.Device,
        Name = receive.Name,
        SizeBytes = receive.SizeBytes,
        Address = receive.Address is { } address ? ParseAddress(operation, address) : null,
        Port = ParsePort(operation, receive.Port),
        IsHttp = receive.Http,
        Kind = receive.Kind,
        BufferBytes = receive.BufferBytes,
        ChunkBytes = receive.ChunkBytes,
        BufferName = receive.BufferName,
        StallMax = receive.StallTimeoutMs switch
        {
            null => null,
            -1 => Timeout.InfiniteTimeSpan,
            { } ms => TimeSpan.FromMilliseconds(ms),
        },
    };

    private static ListeningDocument Describe(NetNic nic, ReceiveDocument asked, NetReceive made) => new()
    {
        Nic = nic.Name,
        Addresses = asked.Address is { } address
            ? [address]
            : [.. nic.Addresses.Select(a => a.ToString())],
        Port = asked.Port,
        Queue = asked.Queue,
        Buffer = made.Buffer.ToString(),
        BufferBytes = made.Binding.LengthBytes,
        ChunkBytes = made.Binding.ChunkBytes,
        Kind = EthernetReports.ToWord(made.Binding.Kind),
        Route = EthernetReports.ToWord(made.Binding.Route),
    };

    private static IpAddress ParseAddress(string operation, string text) =>
        IpAddress.TryParse(text, out IpAddress address)
            ? address
            : throw new WayleaveException(Errno.EINVAL, operation, $"'{text}' is not an IPv4 or IPv6 address");

    private static ushort ParsePort(string operation, int port) => port is > 0 and <= ushort.MaxValue
        ? (ushort)port
        : throw new WayleaveException(Errno.EINVAL, operation, $"{port} is not a port; ports are 1 to 65535");

    private CancellationTokenSource UntilOver(HttpContext context) =>
        CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);
}
