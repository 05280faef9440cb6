// Host B lends 1 MiB of its GPU to host A, A writes into it over RoCEv2, B takes it back: A's next write is refused.
using System.Net;
using System.Runtime.Versioning;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

[assembly: SupportedOSPlatform("linux")]

static HostConfig At(string address) =>
    new() { Nics = [new NicConfig { Address = IPAddress.Parse(address), UdpPort = 0 }] };
await using WayleaveHost a = await WayleaveHost.StartAsync(At("127.0.0.2"));
await using WayleaveHost b = await WayleaveHost.StartAsync(At("127.0.0.3"));

DeviceObject lent = await b.Objects.CreateAsync("gpu0", "lent", 1 << 20, StorageKind.Movable);
DeviceObject mine = await a.Objects.CreateAsync("gpu0", "mine", 1 << 20, StorageKind.Movable);
await a.Objects.ForEachPieceAsync(mine, (_, bytes) => bytes.Fill(0x5A));

await using Connection connection = await Connection.OpenAsync(a.Nics[0], mine);
Lease lease = await b.Leases
    .LendAsync(lent, new LeaseRequest(LeaseAccess.Write, ImporterKind.Dynamic, connection.Local));
connection.Connect(lease.Local);
BulkTransfer transfer = new(connection.Nic.Driver, connection.QueuePair, connection.Completions, a.Context);
BulkRange range = new(0, connection.Region.Key, lease.Region.Iova, lease.Region.Key, lent.SizeBytes);
Console.WriteLine($"write while lent:    {transfer.Run(BulkDirection.Write, range)}");
RetirementProof proof = await b.Objects.RevokeAsync(lent, new RevokePolicy());
Console.WriteLine($"taken back:          {proof.Grade}");
Console.WriteLine($"write afterwards:    {transfer.Run(BulkDirection.Write, range)}");
