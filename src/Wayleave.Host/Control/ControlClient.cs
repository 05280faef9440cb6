using System.Globalization;
using Wayleave.Host.Topology;

namespace Wayleave.Host.Control;

/// <summary>
/// Asks a host for something. Every failure is a <see cref="WayleaveException"/> in one line that names the object and
/// the remedy: what the host refused keeps the host's words, and no wait is longer than
/// <see cref="ControlClientOptions.Timeout"/> unless the request says why. Threads may share one client.
/// </summary>
public sealed class ControlClient : IDisposable
{
    private readonly ControlChannel _channel;

    private ControlClient(ControlChannel channel) => _channel = channel;

    private static ControlJson Json => ControlJson.Default;

    /// <summary>The host as the user named it.</summary>
    public string HostName => _channel.HostName;

    /// <summary>
    /// A client for the host of <paramref name="url"/>, for the Unix socket of the options, or, with neither, for the
    /// only host of this user on this machine. Connects with the first request.
    /// </summary>
    /// <exception cref="WayleaveException">Neither is given, and not exactly one host runs here.</exception>
    public static ControlClient Open(WlUrl? url, ControlClientOptions? options = null)
    {
        options ??= new ControlClientOptions();
        return new ControlClient(new ControlChannel(
            options.SocketPath is { } path ? HostAddress.OfSocket(path, options)
            : url is not null ? HostAddress.OfUrl(url, options)
            : HostAddress.OfOnlyHost(options),
            options));
    }

    public Task<HostDocument> GetHostAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("ask for its name", "/v1/host", Json.HostDocument, cancellation);

    public Task<DevicesDocument> GetDevicesAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("list devices", "/v1/devices", Json.DevicesDocument, cancellation);

    public Task<StatsDocument> GetStatsAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("read counters", "/v1/stats", Json.StatsDocument, cancellation);

    /// <summary>What the host does just now: devices, who reaches their memory, what was taken back.</summary>
    public Task<ActivityDocument> GetActivityAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("ask what it does", "/v1/activity", Json.ActivityDocument, cancellation);

    /// <summary>The host's PCI trees.</summary>
    public Task<TopologyDocument> GetTopologyAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("show its topology", "/v1/topology", TopologyJson.Default.TopologyDocument, cancellation);

    /// <summary>How every device reaches every other.</summary>
    public Task<RoutesDocument> GetRoutesAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("show its routes", "/v1/routes", TopologyJson.Default.RoutesDocument, cancellation);

    /// <summary>How one function reaches another's memory; each by name or PCI address.</summary>
    /// <exception cref="WayleaveException">ENODEV: the host has no such function.</exception>
    public Task<RouteDocument> GetRouteAsync(string owner, string client, CancellationToken cancellation = default)
    {
        string path = $"/v1/routes/{Uri.EscapeDataString(owner)}/{Uri.EscapeDataString(client)}";
        return _channel.GetAsync($"explain {owner} {client}", path, TopologyJson.Default.RouteDocument, cancellation);
    }

    /// <summary>What has crossed each link and route.</summary>
    public Task<LinksDocument> GetLinksAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("read its links", "/v1/links", TopologyJson.Default.LinksDocument, cancellation);

    /// <summary>
    /// Tries the routes between two devices with real bytes. A route that fails is an answer and no failure: see
    /// <see cref="ProbeDocument.Ok"/>.
    /// </summary>
    public Task<ProbeDocument> ProbeAsync(StartProbeDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        ByteArrayContent body = ControlChannel.ToContent(start, TopologyJson.Default.StartProbeDocument);
        return _channel.PostAsync(
            $"probe {start.One} {start.Other}", "/v1/probes", TopologyJson.Default.ProbeDocument, body, cancellation);
    }

    /// <summary>
    /// Resets a function in the hands of VFIO: returns when every importer has stopped and the reset has happened, with
    /// a proof for each buffer.
    /// </summary>
    /// <exception cref="WayleaveException">EOPNOTSUPP: the device is not in the hands of VFIO.</exception>
    public Task<ResetDocument> ResetAsync(string device, CancellationToken cancellation = default) =>
        _channel.SendAsync(
            $"reset {device}",
            HttpMethod.Post,
            $"/v1/devices/{Uri.EscapeDataString(device)}/reset",
            Json.ResetDocument,
            null,
            Timeout.InfiniteTimeSpan,
            cancellation);

    /// <summary>
    /// Pulls a device out of a host. Memory that is not proven yet is an answer and no failure: see
    /// <see cref="UnpluggedDocument.Late"/>.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: there is no such device. EBUSY: it is orderly and somebody does not let go.
    /// </exception>
    public Task<UnpluggedDocument> UnplugAsync(
        string device, UnplugDeviceDocument unplug, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(unplug);
        return _channel.SendAsync(
            $"unplug {device}",
            HttpMethod.Post,
            $"/v1/devices/{Uri.EscapeDataString(device)}/unplug",
            Json.UnpluggedDocument,
            ControlChannel.ToContent(unplug, Json.UnplugDeviceDocument),
            Timeout.InfiniteTimeSpan,
            cancellation);
    }

    /// <summary>Every buffer of the host with its users, its fences, and the programs that hold it.</summary>
    public Task<BuffersDocument> GetBuffersAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("list buffers", "/v1/buffers", Json.BuffersDocument, cancellation);

    /// <summary>Who offers memory to peers, and who has it.</summary>
    public Task<ResourcesDocument> GetResourcesAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("list resources", "/v1/resources", Json.ResourcesDocument, cancellation);

    /// <summary>
    /// Borrows a range of a device's memory by a handle, which lasts until the stream is disposed, somebody removes the
    /// resource, or one of the two ends dies.
    /// </summary>
    /// <param name="add">What is wanted.</param>
    /// <param name="told">Called with every line but heartbeats, the first one included.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="WayleaveException">As <see cref="Resources.ResourceService.AddAsync"/>.</exception>
    public Task<HeldResource> AddResourceAsync(
        AddResourceDocument add,
        Action<ResourceEventDocument>? told = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(add);
        return _channel.HoldAsync(
            $"lend {add.Device ?? "memory"}/{add.Name}",
            "/v1/resources",
            ControlChannel.ToContent(add, Json.AddResourceDocument),
            (lines, limit) => HeldResource.OpenAsync(lines, told, limit),
            cancellation);
    }

    /// <summary>
    /// Takes a resource away with its users inside. A proof that is not sufficient is an answer and no failure.
    /// </summary>
    /// <exception cref="WayleaveException">ENOENT: there is no such resource.</exception>
    public Task<ProofDocument> RemoveResourceAsync(
        string device, string name, RemoveResourceDocument remove, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(remove);
        return _channel.SendAsync(
            $"remove {device}/{name}",
            HttpMethod.Post,
            $"/v1/resources/{Uri.EscapeDataString(device)}/{Uri.EscapeDataString(name)}/remove",
            Json.ProofDocument,
            ControlChannel.ToContent(remove, Json.RemoveResourceDocument),
            TimeSpan.FromMilliseconds(remove.TimeoutMs) + _channel.Options.Timeout,
            cancellation);
    }

    /// <summary>Everything that holds device memory, objects that are being written included.</summary>
    public Task<ObjectsDocument> GetObjectsAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("list objects", "/v1/objects", Json.ObjectsDocument, cancellation);

    /// <summary>A ready object.</summary>
    /// <exception cref="WayleaveException">ENOENT: there is none of that name.</exception>
    public Task<ObjectDocument> GetObjectAsync(string device, string name, CancellationToken cancellation = default) =>
        _channel.GetAsync($"find {device}/{name}", ObjectPath(device, name), Json.ObjectDocument, cancellation);

    /// <summary>
    /// Cleared memory under a name that appears with <see cref="CommitObjectAsync"/>. The host gives it up when no
    /// lease on it is asked for soon, and when the lease ends before the commit.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: no such device. ENOSPC: no room. EINVAL: a bad name or size.
    /// </exception>
    public Task<ObjectDocument> CreateObjectAsync(CreateObjectDocument create, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(create);
        ByteArrayContent body = ControlChannel.ToContent(create, Json.CreateObjectDocument);
        return _channel.PostAsync(
            $"create {create.Device}/{create.Name}", "/v1/objects", Json.ObjectDocument, body, cancellation);
    }

    /// <summary>Gives the object its name; an older object of that name is taken back first.</summary>
    /// <param name="id">From <see cref="CreateObjectAsync"/>.</param>
    /// <param name="sha256">What was sent, in hexadecimal; the host compares. Null to commit unchecked.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="WayleaveException">EIO: the content differs. ENODEV: it was taken back meanwhile.</exception>
    public Task<ObjectDocument> CommitObjectAsync(ulong id, string? sha256, CancellationToken cancellation = default)
    {
        ByteArrayContent body = ControlChannel.ToContent(
            new CommitObjectDocument { Sha256 = sha256 }, Json.CommitObjectDocument);
        return _channel.PostAsync(
            $"commit object {id}", ObjectPath(id) + "/commit", Json.ObjectDocument, body, cancellation);
    }

    /// <summary>Gives an object up, whatever its state; answered by the proof.</summary>
    public Task<ProofDocument> DeleteObjectAsync(ulong id, CancellationToken cancellation = default) =>
        _channel.SendAsync(
        $"delete object {id}",
        HttpMethod.Delete,
        ObjectPath(id),
        Json.ProofDocument,
        null,
        _channel.Options.WorkTimeout,
        cancellation);

    /// <summary>Has a drive of the host read a file of this machine into an object; returns when it is there.</summary>
    /// <exception cref="WayleaveException">
    /// EPERM: not by the Unix socket. EREMOTEIO: it would have to be staged. Or what the file or the device says.
    /// </exception>
    public Task<DriveCopyDocument> LoadAsync(
        string device, string name, LoadObjectDocument load, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(load);
        return _channel.SendAsync(
            $"load {load.Path} into {device}/{name}",
            HttpMethod.Post,
            ObjectPath(device, name) + "/load",
            Json.DriveCopyDocument,
            ControlChannel.ToContent(load, Json.LoadObjectDocument),
            Timeout.InfiniteTimeSpan,
            cancellation);
    }

    /// <summary>Has a drive of the host write an object to a file of this machine; returns when it is whole.</summary>
    /// <exception cref="WayleaveException">As <see cref="LoadAsync"/>.</exception>
    public Task<DriveCopyDocument> SaveAsync(
        string device, string name, SaveObjectDocument save, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(save);
        return _channel.SendAsync(
            $"save {device}/{name} to {save.Path}",
            HttpMethod.Post,
            ObjectPath(device, name) + "/save",
            Json.DriveCopyDocument,
            ControlChannel.ToContent(save, Json.SaveObjectDocument),
            Timeout.InfiniteTimeSpan,
            cancellation);
    }

    /// <summary>Opens the file that an object in a drive's memory buffer is a window to.</summary>
    public Task<OpenFileDocument> OpenFileAsync(
        ulong id, OpenFileDocument open, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"open object {id} as a file",
            ObjectPath(id) + "/file",
            Json.OpenFileDocument,
            ControlChannel.ToContent(open, Json.OpenFileDocument),
            cancellation);

    /// <summary>Has the drive write a part of the window to the file; returns when it has.</summary>
    public Task<WriteFileDocument> WriteFileAsync(
        ulong id, WriteFileDocument write, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"write object {id} to its file",
            ObjectPath(id) + "/file/writes",
            Json.WriteFileDocument,
            ControlChannel.ToContent(write, Json.WriteFileDocument),
            cancellation);

    /// <summary>Takes the window back, checks the file and gives it its name.</summary>
    /// <param name="id">Of the window.</param>
    /// <param name="sha256">Of what was sent; null for no check.</param>
    /// <param name="cancellation">Ends the wait; the file is given up.</param>
    public Task<StoredFileDocument> CommitFileAsync(
        ulong id, string? sha256, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"commit the file of object {id}",
            ObjectPath(id) + "/file/commit",
            Json.StoredFileDocument,
            ControlChannel.ToContent(new CommitObjectDocument { Sha256 = sha256 }, Json.CommitObjectDocument),
            cancellation);

    /// <summary>Moves an object to system memory; returns when the copy is done.</summary>
    public Task<ObjectDocument> EvictAsync(string device, string name, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"evict {device}/{name}", ObjectPath(device, name) + "/evict", Json.ObjectDocument, null, cancellation);

    /// <summary>Moves an object to VRAM; returns when the copy is done.</summary>
    public Task<ObjectDocument> RestoreAsync(string device, string name, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"restore {device}/{name}", ObjectPath(device, name) + "/restore", Json.ObjectDocument, null, cancellation);

    /// <summary>
    /// Takes an object back. A proof that is not sufficient is an answer and no failure: see its grade.
    /// </summary>
    public Task<ProofDocument> RevokeAsync(
        string device, string name, RevokeObjectDocument revoke, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(revoke);
        ByteArrayContent body = ControlChannel.ToContent(revoke, Json.RevokeObjectDocument);
        TimeSpan timeout = TimeSpan.FromMilliseconds(revoke.TimeoutMs) + _channel.Options.Timeout;
        string path = ObjectPath(device, name) + "/revoke";
        return _channel.SendAsync(
            $"revoke {device}/{name}", HttpMethod.Post, path, Json.ProofDocument, body, timeout, cancellation);
    }

    /// <summary>The checksum of an object's bytes as they are now.</summary>
    public Task<DigestDocument> GetSha256Async(string device, string name, CancellationToken cancellation = default)
    {
        string path = ObjectPath(device, name) + "/sha256";
        return _channel.SendAsync(
            $"checksum {device}/{name}",
            HttpMethod.Get,
            path,
            Json.DigestDocument,
            null,
            _channel.Options.WorkTimeout,
            cancellation);
    }

    /// <summary>One more queue pair for a lease whose first went to ERR.</summary>
    public Task<ConnectionEndDocument> ReconnectAsync(
        ulong leaseId, ConnectionEndDocument peer, CancellationToken cancellation = default)
    {
        ByteArrayContent body = ControlChannel.ToContent(new ReconnectDocument { Peer = peer }, Json.ReconnectDocument);
        string path = string.Create(CultureInfo.InvariantCulture, $"/v1/leases/{leaseId}/connections");
        return _channel.PostAsync($"reconnect lease {leaseId}", path, Json.ConnectionEndDocument, body, cancellation);
    }

    /// <summary>
    /// Takes an object back, gives its memory to a new owner and marks it, to see whether anything still lands there.
    /// The audit lasts until the stream is disposed, somebody ends it, or one of the two ends dies.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EBUSY: the proof was not sufficient; the memory is in quarantine.
    /// </exception>
    public Task<HeldAudit> StartAuditAsync(
        string device, string name, StartAuditDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        ByteArrayContent body = ControlChannel.ToContent(start, Json.StartAuditDocument);
        string path = ObjectPath(device, name) + "/audits";
        string what = $"audit {device}/{name}";
        return _channel.HoldAsync(what, path, body, HeldAudit.OpenAsync, cancellation);
    }

    /// <summary>What an audit finds at this moment.</summary>
    public Task<AuditFindingsDocument> InspectAuditAsync(ulong id, CancellationToken cancellation = default) =>
        _channel.SendAsync(
        $"inspect audit {id}",
        HttpMethod.Get,
        AuditPath(id),
        Json.AuditFindingsDocument,
        null,
        _channel.Options.WorkTimeout,
        cancellation);

    /// <summary>Looks a last time and ends an audit; its memory is given up.</summary>
    public Task<AuditFindingsDocument> EndAuditAsync(ulong id, CancellationToken cancellation = default) =>
        _channel.SendAsync(
        $"end audit {id}",
        HttpMethod.Delete,
        AuditPath(id),
        Json.AuditFindingsDocument,
        null,
        _channel.Options.WorkTimeout,
        cancellation);

    /// <summary>
    /// Borrows an object. The lease lasts until the stream is disposed, the host ends it, or one of the two ends dies;
    /// the host then destroys its queue pair, kills the key, and gives up an object that was not committed.
    /// </summary>
    public Task<HeldLease> LeaseAsync(
        ulong objectId, LeaseRequestDocument request, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        ByteArrayContent body = ControlChannel.ToContent(request, Json.LeaseRequestDocument);
        string path = ObjectPath(objectId) + "/leases";
        string what = $"lease object {objectId}";
        return _channel.HoldAsync(what, path, body, HeldLease.OpenAsync, cancellation);
    }

    /// <summary>
    /// Makes an object ready to be sent to another host. The transfer lasts until the stream is disposed, it is over,
    /// or one of the two ends dies.
    /// </summary>
    /// <param name="device">Of the object.</param>
    /// <param name="name">Of the object.</param>
    /// <param name="open">Which object is meant.</param>
    /// <param name="progress">
    /// Called with the bytes that have arrived, once <see cref="StartTransferAsync"/> was.
    /// </param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="WayleaveException">
    /// ENOENT: there is none of that name. ENODEV: it is another one now.
    /// </exception>
    public Task<HeldTransfer> OpenTransferAsync(
        string device,
        string name,
        OpenTransferDocument open,
        Action<ulong>? progress = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(open);
        ByteArrayContent body = ControlChannel.ToContent(open, Json.OpenTransferDocument);
        string path = ObjectPath(device, name) + "/transfers";
        return _channel.HoldAsync(
            $"send {device}/{name}",
            path,
            body,
            (lines, limit) => HeldTransfer.OpenAsync(lines, progress, limit),
            cancellation);
    }

    /// <summary>Sends, into memory that the other host has lent to the transfer's end.</summary>
    public Task<TransferDocument> StartTransferAsync(
        ulong id, StartTransferDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        ByteArrayContent body = ControlChannel.ToContent(start, Json.StartTransferDocument);
        string path = string.Create(CultureInfo.InvariantCulture, $"/v1/transfers/{id}/start");
        return _channel.PostAsync($"start transfer {id}", path, Json.TransferDocument, body, cancellation);
    }

    /// <summary>Who uses the GPUs, and for what.</summary>
    public Task<ComputeDocument> GetComputeAsync(CancellationToken cancellation = default) =>
        _channel.GetAsync("list queues", "/v1/compute", Json.ComputeDocument, cancellation);

    /// <summary>
    /// Opens a GPU, to submit commands to it. The context lasts until the stream is disposed, the GPU is pulled out, or
    /// one of the two ends dies; what runs then stops.
    /// </summary>
    /// <exception cref="WayleaveException">ENODEV: there is no such GPU. EMFILE: too many use it.</exception>
    public Task<HeldContext> OpenGpuAsync(string gpu, string name, CancellationToken cancellation = default) =>
        _channel.HoldAsync(
            $"open {gpu} for compute",
            $"/v1/gpus/{Uri.EscapeDataString(gpu)}/contexts",
            ControlChannel.ToContent(new OpenContextDocument { Name = name }, Json.OpenContextDocument),
            (lines, limit) => HeldContext.OpenAsync(_channel, lines, limit),
            cancellation);

    /// <summary>
    /// Receives TCP connections into device memory. The reception lasts until the stream is disposed, it is over, or
    /// one of the two ends dies.
    /// </summary>
    /// <param name="nic">An Ethernet NIC of the host.</param>
    /// <param name="receive">What and where to.</param>
    /// <param name="line">Called with each line between the first and the last.</param>
    /// <param name="cancellation">Ends the wait for the first line.</param>
    /// <exception cref="WayleaveException">What the NIC, the device or the route says against it.</exception>
    public Task<HeldNet> ReceiveAsync(
        string nic, ReceiveDocument receive, Action<NetEventDocument> line, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(receive);
        return _channel.HoldAsync(
            $"receive by {nic}",
            $"/v1/ethernets/{Uri.EscapeDataString(nic)}/receives",
            ControlChannel.ToContent(receive, Json.ReceiveDocument),
            (lines, limit) => HeldNet.OpenAsync(lines, line, limit),
            cancellation);
    }

    /// <summary>Sends an object, or a file by way of one, from device memory. Otherwise as the other.</summary>
    /// <exception cref="WayleaveException">ENOENT: no such object. EPERM: a file, not by the Unix socket.</exception>
    public Task<HeldNet> SendAsync(
        string nic, SendDocument send, Action<NetEventDocument> line, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(send);
        return _channel.HoldAsync(
            $"send by {nic}",
            $"/v1/ethernets/{Uri.EscapeDataString(nic)}/sends",
            ControlChannel.ToContent(send, Json.SendDocument),
            (lines, limit) => HeldNet.OpenAsync(lines, line, limit),
            cancellation,
            Timeout.InfiniteTimeSpan);
    }

    /// <summary>How an Ethernet NIC is set up, and what it has counted.</summary>
    /// <exception cref="WayleaveException">ENODEV: there is none of that name.</exception>
    public Task<NicStateDocument> GetNicAsync(string nic, CancellationToken cancellation = default) =>
        _channel.GetAsync(
            $"look at {nic}", $"/v1/ethernets/{Uri.EscapeDataString(nic)}", Json.NicStateDocument, cancellation);

    /// <summary>Changes an Ethernet NIC in the words of ethtool.</summary>
    /// <exception cref="WayleaveException">With the errno and in the words that ethtool has for it.</exception>
    public Task<EthtoolAnswerDocument> ChangeNicAsync(
        string nic, EthtoolRequestDocument request, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        return _channel.PostAsync(
            $"change {nic}",
            $"/v1/ethernets/{Uri.EscapeDataString(nic)}/ethtool",
            Json.EthtoolAnswerDocument,
            ControlChannel.ToContent(request, Json.EthtoolRequestDocument),
            cancellation);
    }

    public void Dispose() => _channel.Dispose();

    private static string ObjectPath(string device, string name) =>
        $"/v1/objects/{Uri.EscapeDataString(device)}/{Uri.EscapeDataString(name)}";

    private static string ObjectPath(ulong id) => string.Create(CultureInfo.InvariantCulture, $"/v1/objects/{id}");

    private static string AuditPath(ulong id) => string.Create(CultureInfo.InvariantCulture, $"/v1/audits/{id}");
}
