using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

/// <summary>
/// How the documents of the control connection become JSON, by code that the compiler made. Enumerations are words in
/// snake_case; grades keep the names that design.md gives them (<c>KeyDead</c>), as scripts compare them.
/// </summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    RespectNullableAnnotations = true,
    AllowDuplicateProperties = false,
    Converters =
    [
        typeof(SnakeCaseEnumConverter<ImporterKind>),
        typeof(SnakeCaseEnumConverter<StorageKind>),
        typeof(SnakeCaseEnumConverter<ObjectPlace>),
        typeof(SnakeCaseEnumConverter<ObjectState>),
        typeof(SnakeCaseEnumConverter<PeerMapType>),
        typeof(SnakeCaseEnumConverter<LeaseAccess>),
        typeof(SnakeCaseEnumConverter<HoldKind>),
        typeof(SnakeCaseEnumConverter<LeaseEventKind>),
        typeof(SnakeCaseEnumConverter<QuarantineCause>),
        typeof(SnakeCaseEnumConverter<DrainState>),
        typeof(SnakeCaseEnumConverter<StopCause>),
        typeof(SnakeCaseEnumConverter<AuditEventKind>),
        typeof(SnakeCaseEnumConverter<TransferEventKind>),
        typeof(SnakeCaseEnumConverter<ResourceEventKind>),
        typeof(SnakeCaseEnumConverter<PeerResourceState>),
        typeof(SnakeCaseEnumConverter<MappingState>),
        typeof(SnakeCaseEnumConverter<NetEventKind>),
        typeof(SnakeCaseEnumConverter<WorkCompletionStatus>),
        typeof(SnakeCaseEnumConverter<ContextEventKind>),
        typeof(SnakeCaseEnumConverter<ContextJobState>),
        typeof(SnakeCaseEnumConverter<QueueState>),
        typeof(SnakeCaseEnumConverter<SyncPointState>),
        typeof(SnakeCaseEnumConverter<GpuCommandMode>),
        typeof(SnakeCaseEnumConverter<GpuUserMemory>),
        typeof(SnakeCaseEnumConverter<GpuPinPolicy>),
        typeof(SnakeCaseEnumConverter<GpuPriority>),
        typeof(SnakeCaseEnumConverter<GpuEngineKind>),
        typeof(SnakeCaseEnumConverter<ContextRegionKind>),
        typeof(SnakeCaseEnumConverter<MemoryRegionState>),
        typeof(SnakeCaseEnumConverter<PinnedMemoryPolicy>),
        typeof(SnakeCaseEnumConverter<LegacyPeerPolicy>),
        typeof(SnakeCaseEnumConverter<RegionRevocation>),
        typeof(SnakeCaseEnumConverter<RegionOrigin>),
        typeof(SnakeCaseEnumConverter<PrivatePagePolicy>),
        typeof(GradeConverter),
    ])]
[JsonSerializable(typeof(ActivityDocument))]
[JsonSerializable(typeof(AuditEventDocument))]
[JsonSerializable(typeof(AuditFindingsDocument))]
[JsonSerializable(typeof(StartAuditDocument))]
[JsonSerializable(typeof(HostDocument))]
[JsonSerializable(typeof(RegistrationDocument))]
[JsonSerializable(typeof(ProblemDocument))]
[JsonSerializable(typeof(DevicesDocument))]
[JsonSerializable(typeof(ResetDocument))]
[JsonSerializable(typeof(BuffersDocument))]
[JsonSerializable(typeof(ResourcesDocument))]
[JsonSerializable(typeof(AddResourceDocument))]
[JsonSerializable(typeof(RemoveResourceDocument))]
[JsonSerializable(typeof(ResourceEventDocument))]
[JsonSerializable(typeof(UnplugDeviceDocument))]
[JsonSerializable(typeof(UnpluggedDocument))]
[JsonSerializable(typeof(StatsDocument))]
[JsonSerializable(typeof(ObjectsDocument))]
[JsonSerializable(typeof(CreateObjectDocument))]
[JsonSerializable(typeof(CommitObjectDocument))]
[JsonSerializable(typeof(RevokeObjectDocument))]
[JsonSerializable(typeof(DigestDocument))]
[JsonSerializable(typeof(ProofDocument))]
[JsonSerializable(typeof(JsonElement))]
[JsonSerializable(typeof(LeaseRequestDocument))]
[JsonSerializable(typeof(ReconnectDocument))]
[JsonSerializable(typeof(LeaseEventDocument))]
[JsonSerializable(typeof(ConnectionEndDocument))]
[JsonSerializable(typeof(ObjectDocument))]
[JsonSerializable(typeof(LoadObjectDocument))]
[JsonSerializable(typeof(OpenFileDocument))]
[JsonSerializable(typeof(WriteFileDocument))]
[JsonSerializable(typeof(StoredFileDocument))]
[JsonSerializable(typeof(SaveObjectDocument))]
[JsonSerializable(typeof(DriveCopyDocument))]
[JsonSerializable(typeof(OpenTransferDocument))]
[JsonSerializable(typeof(StartTransferDocument))]
[JsonSerializable(typeof(TransferEventDocument))]
[JsonSerializable(typeof(ComputeDocument))]
[JsonSerializable(typeof(OpenContextDocument))]
[JsonSerializable(typeof(ContextEventDocument))]
[JsonSerializable(typeof(ContextDocument))]
[JsonSerializable(typeof(OpenBufferDocument))]
[JsonSerializable(typeof(BufferHandleDocument))]
[JsonSerializable(typeof(AllocateMemoryDocument))]
[JsonSerializable(typeof(TakeOverMemoryDocument))]
[JsonSerializable(typeof(ShareMemoryDocument))]
[JsonSerializable(typeof(CreateQueueDocument))]
[JsonSerializable(typeof(QueueDocument))]
[JsonSerializable(typeof(DoorbellDocument))]
[JsonSerializable(typeof(SubmitJobDocument))]
[JsonSerializable(typeof(WaitJobDocument))]
[JsonSerializable(typeof(JobDocument))]
[JsonSerializable(typeof(RegisterRegionDocument))]
[JsonSerializable(typeof(ReregisterRegionDocument))]
[JsonSerializable(typeof(RegionDocument))]
[JsonSerializable(typeof(PrefetchDocument))]
[JsonSerializable(typeof(ConnectContextDocument))]
[JsonSerializable(typeof(ReceiveDocument))]
[JsonSerializable(typeof(SendDocument))]
[JsonSerializable(typeof(NetEventDocument))]
[JsonSerializable(typeof(EthtoolRequestDocument))]
[JsonSerializable(typeof(EthtoolAnswerDocument))]
[JsonSerializable(typeof(NicStateDocument))]
public sealed partial class ControlJson : JsonSerializerContext
{
    private static readonly Lazy<ControlJson> s_strict = new(() => new ControlJson(
        new JsonSerializerOptions(Default!.Options) { UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow }));

    /// <summary>As the default, for text that must say nothing beyond what is known here.</summary>
    internal static ControlJson Strict => s_strict.Value;

    /// <summary>Names as words in snake_case; numbers in their place are refused.</summary>
    private sealed class SnakeCaseEnumConverter<T>()
        : JsonStringEnumConverter<T>(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false)
        where T : struct, Enum;

    private sealed class GradeConverter()
        : JsonStringEnumConverter<RetirementGrade>(namingPolicy: null, allowIntegerValues: false);
}
