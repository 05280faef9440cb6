using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.Vectors;

/// <summary>How reports are written: numbers raw, keys in snake_case, absent headers left out.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    Converters = [typeof(IcrcVerdictConverter), typeof(ReplayRoleConverter), typeof(ReplayResultConverter)])]
[JsonSerializable(typeof(CheckReport))]
[JsonSerializable(typeof(ReplayReport))]
internal sealed partial class ReportJson : JsonSerializerContext;

internal sealed class IcrcVerdictConverter() : JsonStringEnumConverter<IcrcVerdict>(
    System.Text.Json.JsonNamingPolicy.SnakeCaseLower);
