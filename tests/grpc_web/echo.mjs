// The service that the server offers and the clients call, as a compiler of protobuf would describe it.
import { createFileRegistry, fromJson } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';

const field = (name, number, type) => ({ name, number, type, label: 'LABEL_OPTIONAL', jsonName: name });
const method = (name, more = {}) => ({ name, inputType: '.echo.Word', outputType: '.echo.Word', ...more });
const registry = createFileRegistry(fromJson(FileDescriptorSetSchema, {
  file: [{
    name: 'echo.proto',
    package: 'echo',
    syntax: 'proto3',
    messageType: [{ name: 'Word', field: [field('text', 1, 'TYPE_STRING'), field('count', 2, 'TYPE_INT32')] }],
    service: [{ name: 'Echo', method: [method('Say'), method('Repeat', { serverStreaming: true }), method('Fail'), method('Sleep')] }],
  }],
}));

export const Word = registry.getMessage('echo.Word');
export const Echo = registry.getService('echo.Echo');
