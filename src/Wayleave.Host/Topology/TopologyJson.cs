using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary>How documents about paths become JSON; enumerations are words in snake_case.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    RespectNullableAnnotations = true,
    AllowDuplicateProperties = false,
    MaxDepth = 1024, // a chain of bridges may be 255 long
    Converters =
    [
        typeof(WordConverter<IommuMode>),
        typeof(WordConverter<HostBridgeListing>),
        typeof(WordConverter<FunctionKind>),
        typeof(WordConverter<PciBarKind>),
        typeof(WordConverter<PeerMapType>),
        typeof(WordConverter<PeerObstacle>),
        typeof(WordConverter<PeerRoute>),
        typeof(WordConverter<ProbeOutcome>),
    ])]
[JsonSerializable(typeof(TopologyDocument))]
[JsonSerializable(typeof(RoutesDocument))]
[JsonSerializable(typeof(RouteDocument))]
[JsonSerializable(typeof(LinksDocument))]
[JsonSerializable(typeof(StartProbeDocument))]
[JsonSerializable(typeof(ProbeDocument))]
[JsonSerializable(typeof(TransferExplanationDocument))]
public sealed partial class TopologyJson : JsonSerializerContext
{
    private sealed class WordConverter<T>()
        : JsonStringEnumConverter<T>(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false)
        where T : struct, Enum;
}
